"""The n-th system call of a kind fails in a command; then the command is repeated without faults and compared.

    python -m tests.reliability.failing_calls SEED COUNT [--command NAME] [--kind KIND] [--base FOLDER]

KIND and errors: replace (EIO, ESTALE), fsync (EIO), mkdir (EDQUOT), unlink (EBUSY), flock (ENOLCK, EOPNOTSUPP), openw
(EDQUOT, ESTALE), openr (EIO), write (ENOSPC after half of the bytes). Only files of the trial are meant.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import fcntl
import io
import os
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.reliability.base import COMMANDS, Workplace, differences, results
from tests.reliability.forked import Outcome
from tests.reliability.kills import FINISHED
from tests.reliability.program import run_trials

ERRORS = {
    "replace": (errno.EIO, errno.ESTALE),
    "fsync": (errno.EIO,),
    "mkdir": (errno.EDQUOT,),
    "unlink": (errno.EBUSY,),
    "flock": (errno.ENOLCK, errno.EOPNOTSUPP),
    "openw": (errno.EDQUOT, errno.ESTALE),
    "openr": (errno.EIO,),
    "write": (errno.ENOSPC,),
}
RIGHT = frozenset({"identical", "refused", "skipped", "said"})


@dataclass
class Failing:
    """Counts the calls of one kind in a child, and makes the ``number``-th fail (0: none)."""

    kind: str
    number: int
    code: int
    below: Path
    count: int = field(default=0)

    def install(self) -> None:
        """Put the failing call in place; done in a child alone."""
        if self.kind == "replace":
            os.replace, os.rename = self._wrapped(os.replace, 1), self._wrapped(os.rename, 1)
        elif self.kind in ("fsync", "mkdir", "unlink"):
            setattr(os, self.kind, self._wrapped(getattr(os, self.kind), None if self.kind == "fsync" else 0))
        elif self.kind == "flock":
            fcntl.flock = self._wrapped(fcntl.flock, None)
        elif self.kind == "write":
            self._half_writes()
        else:
            self._opens()

    def report(self) -> str:
        """How many calls there were, as the last line of the child."""
        return f"\nCALLS {self.count}\n"

    def _hit(self, path: object) -> None:
        self.count += 1
        if self.count == self.number:
            raise OSError(self.code, os.strerror(self.code), str(path))

    def _wrapped(self, call: Callable[..., Any], path_at: int | None) -> Callable[..., Any]:
        def wrapper(*words: Any, **how: Any) -> Any:
            if path_at is None or str(words[path_at]).startswith(str(self.below)):
                self._hit("" if path_at is None else words[path_at])
            return call(*words, **how)

        return wrapper

    def _opens(self) -> None:
        opened = io.open

        def opening(file: Any, mode: str = "r", *words: Any, **how: Any) -> Any:
            writes = any(letter in mode for letter in "wax+")
            if str(file).startswith(str(self.below)) and writes == (self.kind == "openw"):
                self._hit(file)
            return opened(file, mode, *words, **how)

        io.open = builtins.open = opening

    def _half_writes(self) -> None:
        written = Path.write_bytes

        def write_bytes(path: Path, data: bytes) -> int:
            self.count += 1
            if self.count == self.number:
                written(path, data[: len(data) // 2])
                raise OSError(self.code, os.strerror(self.code), str(path))
            return written(path, data)

        Path.write_bytes = write_bytes  # type: ignore[assignment,method-assign]


@dataclass(frozen=True)
class Failed:
    """What a command with one failing call did, and its repetition."""

    what: str
    outcome: Outcome
    second: Outcome
    changed: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """By exit and results, now and after the repetition."""
        outcome = self.outcome
        if outcome.status is None:
            return "hang"
        if outcome.crashed or (outcome.status not in (0, 3) and not outcome.code):
            return "traceback"
        if self.after or (self.second.status != 0 and self.second.code not in FINISHED):
            return "DIFFERENT AFTER"
        if outcome.status:
            return "skipped" if outcome.status == 3 else "refused"
        if self.changed:
            return "said" if "could not be written" in outcome.text else "SILENT"
        return "identical"

    def __str__(self) -> str:
        last = " | ".join(self.outcome.text.strip().splitlines()[-4:])[-400:]
        exits = f"exit {self.outcome.status} {self.outcome.code}, then {self.second.status} {self.second.code}"
        return f"{self.verdict} {self.what}: {exits} {self.changed[:3]} {self.after[:3]} {last!r}"


def trial(place: Workplace, seed: int, name: str | None = None, kind: str | None = None) -> Failed:
    """Draw a command, a kind and a call, let that call fail, judge, repeat, compare."""
    draw = random.Random(seed)
    name, kind = name or draw.choice(list(COMMANDS)), kind or draw.choice(list(ERRORS))
    command = COMMANDS[name]
    expected, _ = place.reference(name, command)
    total = _calls(place, name, kind)
    number, code = draw.randint(1, max(1, total)), draw.choice(ERRORS[kind])
    folder = place.setup(command.parts)
    failing = Failing(kind, number, code, folder)
    outcome = place.run(command.words(folder), before=failing.install, after=failing.report)
    changed = tuple(differences(expected, results(folder, command.compared)))
    second = place.run([*command.words(folder), *command.again], seconds=300)
    after = tuple(differences(expected, results(folder, command.compared)))
    what = f"{name}, {kind} {number} of {total} {errno.errorcode[code]}"
    return Failed(what, outcome, second, changed, after)


_COUNTED: dict[tuple[Path, str, str], int] = {}


def _calls(place: Workplace, name: str, kind: str) -> int:
    """How many calls of a kind an undisturbed command makes."""
    key = place.made, name, kind
    if key not in _COUNTED:
        folder = place.setup(COMMANDS[name].parts)
        failing = Failing(kind, 0, 0, folder)
        outcome = place.run(COMMANDS[name].words(folder), seconds=300, before=failing.install, after=failing.report)
        _COUNTED[key] = int(re.findall(r"CALLS (\d+)", outcome.text)[-1])
    return _COUNTED[key]


def main(words: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=tuple(COMMANDS))
    parser.add_argument("--kind", choices=tuple(ERRORS))
    return run_trials(parser, lambda place, seed, given: trial(place, seed, given.command, given.kind), RIGHT, words)


if __name__ == "__main__":
    raise SystemExit(main())
