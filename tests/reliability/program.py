"""What the programs of the harness share: seeds, a base that is made or kept, counts by verdict."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tests.reliability.base import Workplace, make


class Judged(Protocol):
    """A trial that was made; as text it says all that is needed to look into it."""

    @property
    def verdict(self) -> str:
        """In a word."""


@contextmanager
def workplace(base: Path | None) -> Iterator[Workplace]:
    """A place for trials; ``base`` is a folder that keeps what they copy, made where it is not there."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = base or Path(scratch) / "base"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            make(folder)
        yield Workplace(folder, Path(scratch))


def run_trials(
    parser: argparse.ArgumentParser,
    trial: Callable[[Workplace, int, argparse.Namespace], Judged],
    right: frozenset[str],
    words: list[str] | None,
) -> int:
    """Make trials of some seeds; print counts, and those in full whose verdict is not ``right``; 1 if there are any."""
    parser.add_argument("seed", type=int)
    parser.add_argument("count", type=int)
    parser.add_argument("--base", type=Path, help="a folder that keeps what trials copy (default: made anew)")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no trial after so long")
    given = parser.parse_args(words)
    end = time.monotonic() + given.seconds
    counts: Counter[str] = Counter()
    with workplace(given.base) as place:
        for seed in range(given.seed, given.seed + given.count):
            if time.monotonic() > end:
                break
            found = trial(place, seed, given)
            counts[found.verdict] += 1
            if found.verdict not in right:
                sys.stdout.write(f"{seed} {found}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{counts.total()} trials: {dict(counts)}\n")
    return 1 if counts.keys() - right else 0
