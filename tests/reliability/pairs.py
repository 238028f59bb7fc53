"""Two commands at the same time in one root, also with slow flushes, compared with one after the other.

    python -m tests.reliability.pairs SEED COUNT [--pair NAME] [--flush SECONDS] [--base FOLDER]

Right is: both end with the results of one after the other, or one is refused with a code and nothing differs.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.reliability.base import BOTH, PLAN, RUN, Workplace, convert, differences, predict, results, train
from tests.reliability.base import evaluate as evaluation
from tests.reliability.forked import Outcome, start, wait
from tests.reliability.program import run_trials

Words = list[list[str]]
_OTHER_PLAN = [*PLAN, "--set", "slice_axis=coronal"]


@dataclass(frozen=True)
class Pair:
    """Parts that are copied, the two commands, parts that are compared, and what gives the right result alone."""

    parts: tuple[str, ...]
    commands: Callable[[Path], Words]
    compared: tuple[str, ...]
    alone: Callable[[Path], Words]


def _twice(words: Callable[[Path], list[str]]) -> Callable[[Path], Words]:
    return lambda trial: [words(trial)] * 2


def _once(words: Callable[[Path], list[str]]) -> Callable[[Path], Words]:
    return lambda trial: [words(trial)]


def _same(words: Callable[[Path], list[str]], parts: tuple[str, ...], compared: str) -> Pair:
    return Pair(parts, _twice(words), (compared,), _once(words))


def _both(commands: Callable[[Path], Words], parts: tuple[str, ...], compared: str) -> Pair:
    return Pair(parts, commands, (compared,), commands)


def _shares(_: Path) -> Words:
    return [train("n"), train("m", "--set", "finetune.learning_rate=0.004")]


def _resumed(_: Path) -> list[str]:
    return train("n", "-c")


_RUNS = ("root/raw", "root/results")
PAIRS = {
    "plan_plan": _same(lambda _: PLAN, ("root/raw",), "root/preprocessed"),
    "convert_convert": _same(convert, ("source",), "root/raw"),
    "train_same": _same(lambda _: train(), BOTH, "root/results"),
    "resume_same": _same(_resumed, ("midroot",), "root/results"),
    "train_share": _both(_shares, BOTH, "root/results"),
    "train_folds": _both(lambda _: [train("n"), train("n", fold="1")], BOTH, "root/results"),
    "predict_shares": _both(lambda t: [predict(t, "--shard", f"{i}/2") for i in (1, 2)], _RUNS, "out"),
    "predict_same": _same(predict, _RUNS, "out"),
    "predict_on_same": Pair(_RUNS, _twice(lambda t: predict(t, "--continue")), ("out",), _once(predict)),
    "import_import": _same(lambda t: ["samora_import", f"{t}/m.zip"], ("m.zip",), "root/results"),
    "export_export": _same(lambda t: ["samora_export", RUN, "-o", f"{t}/x.zip"], ("root",), "x.zip"),
    "export_folders": _same(lambda t: ["samora_export", RUN, "-o", f"{t}/xf"], ("root",), "xf"),
    "evaluate_evaluate": _same(evaluation, ("root/raw", "preds"), "preds"),
    "plan_while_training": Pair(
        ("midroot",), lambda _: [train("n", "-c"), _OTHER_PLAN], ("root/results",), _once(_resumed)
    ),
}


@dataclass(frozen=True)
class Paired:
    """What two commands at the same time left."""

    what: str
    outcomes: tuple[Outcome, ...]
    differing: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """``right`` or what is wrong."""
        if any(outcome.status is None for outcome in self.outcomes):
            return "hang"
        if any(outcome.crashed or (outcome.status and not outcome.code) for outcome in self.outcomes):
            return "traceback"
        if all(outcome.status for outcome in self.outcomes):
            return "BOTH REFUSED"
        if self.differing:
            return "DIFFERENT"
        return "STRAY FILES" if self.left else "right"

    def __str__(self) -> str:
        exits = [(outcome.status, outcome.code, outcome.text[-200:]) for outcome in self.outcomes]
        return f"{self.verdict} {self.what}: {exits} {self.differing[:4]} {self.left[:3]}"


def trial(place: Workplace, seed: int, name: str | None = None, flush: float = 0.0) -> Paired:
    """Run both, the second a moment later, and compare."""
    draw = random.Random(seed)
    name = name or draw.choice(list(PAIRS))
    pair = PAIRS[name]
    expected = _alone(place, name, pair)
    delay = draw.uniform(0, 3) if name == "plan_while_training" else draw.choice([0, 0, 0.02, 0.05, 0.1, 0.3, 1])
    folder = place.setup(pair.parts)
    logs = [place.scratch / f"log{number}" for number in (0, 1)]
    children = [
        start(words, folder, log, delay=later, before=lambda: _slow(flush))
        for words, log, later in zip(pair.commands(folder), logs, (0, delay), strict=True)
    ]
    statuses = [wait(child, 300)[0] for child in children]
    texts = [log.read_text(errors="replace") for log in logs]
    outcomes = tuple(Outcome(status, text, 0, 0) for status, text in zip(statuses, texts, strict=True))
    differing = tuple(differences(expected, results(folder, pair.compared)))
    left = tuple(path.name for path in folder.rglob(".partial-*"))
    return Paired(f"{name}, the second {delay:.2f} s later", outcomes, differing, left)


_ALONE: dict[tuple[Path, str], dict[str, str]] = {}


def _alone(place: Workplace, name: str, pair: Pair) -> dict[str, str]:
    if (place.made, name) not in _ALONE:
        folder = place.setup(pair.parts)
        for words in pair.alone(folder):
            outcome = place.run(words, seconds=300)
            if outcome.status != 0:
                raise RuntimeError(f"{name} fails without any fault\n{outcome.text[-3000:]}")
        _ALONE[place.made, name] = results(folder, pair.compared)
    return _ALONE[place.made, name]


def _slow(seconds: float) -> None:
    """In a child: every flush takes longer, as on a network disk."""
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        time.sleep(seconds)
        flush(descriptor)

    os.fsync = fsync  # type: ignore[assignment]


def main(words: list[str] | None = None) -> int:
    """Run the program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pair", choices=tuple(PAIRS))
    parser.add_argument("--flush", type=float, default=0.0)
    right = frozenset({"right"})
    return run_trials(parser, lambda place, seed, given: trial(place, seed, given.pair, given.flush), right, words)


if __name__ == "__main__":
    raise SystemExit(main())
