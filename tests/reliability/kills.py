"""Kill a command at a random moment, up to three times, run it again to its end, and compare with an undisturbed run.

python -m tests.reliability.kills SEED COUNT [--signal KILL|TERM|INT] [--command NAME] [--base FOLDER]
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from dataclasses import dataclass

from tests.reliability.base import COMMANDS, Workplace, differences, results
from tests.reliability.forked import Outcome, start, wait
from tests.reliability.program import run_trials

FINISHED = ("E-EXPORT-01", "E-OUT-03", "E-IMPORT-06", "E-RUN-22")
"""the killed command had finished: its repetition is told so, and nothing changes"""
_LEFT = (".partial-", ".tmp", "checkpoint_latest")


@dataclass(frozen=True)
class Killed:
    """What a killed and repeated command left."""

    command: str
    exits: tuple[int | None, ...]
    wrong_exit: bool
    traceback: bool
    outcome: Outcome
    differing: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """``identical`` is right, everything else wrong."""
        if self.outcome.status is None:
            return "hang"
        if self.outcome.crashed or self.traceback:
            return "traceback"
        if self.wrong_exit:
            return "WRONG EXIT"
        if self.differing or (self.outcome.status != 0 and self.outcome.code not in FINISHED):
            return "DIFFERENT"
        return "STRAY FILES" if self.left else "identical"

    def __str__(self) -> str:
        what = f"{self.command} killed {self.exits}, then exit {self.outcome.status} {self.outcome.code}"
        return f"{self.verdict} {what} {self.differing[:3]} {self.left[:3]} {self.outcome.text[-300:]!r}"


def trial(place: Workplace, seed: int, name: str | None = None, sent: signal.Signals = signal.SIGKILL) -> Killed:
    """Kill, repeat, compare."""
    draw = random.Random(seed)
    name = name or draw.choice([*COMMANDS, *["train"] * 4])
    command = COMMANDS[name]
    expected, usual = place.reference(name, command)
    folder = place.setup(command.parts)
    exits: list[int | None] = []
    traceback, asked = False, False
    for number in range(draw.choice([1, 1, 2, 3])):
        words = command.words(folder) + list(command.again if number else ())
        status, hit, text = _killed(place, words, draw.uniform(0, usual.seconds * 1.05), sent)
        exits.append(status)
        traceback |= "Traceback" in text
        asked |= sent != signal.SIGKILL and status not in (0, 128 + sent)
        if not hit:
            break
    outcome = place.run([*command.words(folder), *command.again], seconds=300)
    differing = tuple(differences(expected, results(folder, command.compared)))
    left = tuple(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.name.startswith(_LEFT))
    present = {p.rpartition("/")[2] for p in expected}
    left = tuple(p for p in left if p.rpartition("/")[2] not in present)
    return Killed(name, tuple(exits), asked, traceback, outcome, differing, left)


def _killed(place: Workplace, words: list[str], delay: float, sent: signal.Signals) -> tuple[int | None, bool, str]:
    """Start a command and send the signal after a while: exit, whether it was still running, what it said."""
    child = start(words, place.trial, place.log)
    end = time.monotonic() + delay
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status), False, place.log.read_text(errors="replace")
        time.sleep(0.001)
    try:
        os.killpg(child, sent)
    except ProcessLookupError:  # not yet the leader of its group
        os.kill(child, sent)
    ended, _ = wait(child, 60)
    return ended, True, place.log.read_text(errors="replace") if place.log.exists() else ""


def main(words: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--command", choices=tuple(COMMANDS))
    return run_trials(
        parser,
        lambda place, seed, given: trial(place, seed, given.command, signal.Signals[f"SIG{given.signal}"]),
        frozenset({"identical"}),
        words,
    )


if __name__ == "__main__":
    raise SystemExit(main())
