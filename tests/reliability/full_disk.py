"""A command on a small disk in memory that gets full at a random point; then space returns and it is repeated.

    python -m tests.reliability.full_disk SEED COUNT [--command NAME] [--base FOLDER]

Needs the right to mount (root).
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.base import COMMANDS, Workplace, differences, results
from tests.reliability.forked import Outcome, run
from tests.reliability.kills import FINISHED
from tests.reliability.program import run_trials

_LARGE = 1 << 20
"""kB"""
RIGHT = frozenset({"refused", "enough space"})


@dataclass(frozen=True)
class Filled:
    """What a command did on a disk that got full, and its repetition."""

    what: str
    outcome: Outcome
    second: Outcome
    changed: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """A full disk is exit 6, and costs nothing once there is space."""
        if self.outcome.status is None:
            return "hang"
        if self.outcome.crashed:
            return "traceback"
        if self.after or (self.second.status != 0 and self.second.code not in FINISHED):
            return "DIFFERENT AFTER"
        if self.outcome.status == 0:
            return "SILENT" if self.changed else "enough space"
        return "refused" if self.outcome.status == 6 else "WRONG EXIT"

    def __str__(self) -> str:
        last = " | ".join(self.outcome.text.strip().splitlines()[-4:])[-400:]
        exits = f"exit {self.outcome.status} {self.outcome.code}, then {self.second.status} {self.second.code}"
        return f"{self.verdict} {self.what}: {exits} {self.changed[:3]} {self.after[:3]} {last!r}"


@contextmanager
def disk(folder: Path) -> Iterator[Path]:
    """A disk of its own at ``folder``.

    Raises:
        PermissionError: mounting is not allowed here.
    """
    folder.mkdir(exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={_LARGE}k", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        raise PermissionError("no right to mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def trial(place: Workplace, seed: int, name: str | None = None) -> Filled:
    """Fill, judge, give space back, repeat, compare."""
    draw = random.Random(seed)
    name = name or draw.choice(list(COMMANDS))
    command = COMMANDS[name]
    with disk(place.scratch / "disk") as mounted:
        own = Workplace(place.made, mounted)
        folder = own.setup(command.parts)
        before = _used(mounted)
        _must(own.run(command.words(folder), seconds=300))
        expected, need = results(folder, command.compared), _used(mounted) - before
        own.setup(command.parts)
        extra = draw.randrange(max(1, need) + 50)
        _resize(mounted, _used(mounted) + extra)
        outcome = _run(place, own, command.words(folder))
        changed = tuple(differences(expected, results(folder, command.compared)))
        _resize(mounted, _LARGE)
        second = _run(place, own, [*command.words(folder), *command.again])
        after = tuple(differences(expected, results(folder, command.compared)))
    return Filled(f"{name} with {extra} of {need} kB", outcome, second, changed, after)


def _run(place: Workplace, own: Workplace, words: list[str]) -> Outcome:
    """Run a command of the mounted place; what it says goes to another disk."""
    return run(words, own.trial, place.log, seconds=300)


def _must(outcome: Outcome) -> None:
    if outcome.status != 0:
        raise RuntimeError(f"fails without any fault\n{outcome.text[-3000:]}")


def _used(folder: Path) -> int:
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize // 1024


def _resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}k", str(folder)], check=True)


def main(words: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=tuple(COMMANDS))
    return run_trials(parser, lambda place, seed, given: trial(place, seed, given.command), RIGHT, words)


if __name__ == "__main__":
    raise SystemExit(main())
