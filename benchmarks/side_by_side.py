"""Print Dice and HD95 per organ of several runs beside each other: ``side_by_side.py NAME=RUN NAME=RUN ...``.

A table for reading, not a test: ``samora_compare`` pairs runs by patient and tests their differences.
"""

from __future__ import annotations

import sys
from pathlib import Path

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import SUMMARY_FILE
from samora_pipeline.contracts.scores import MeanMetrics, Summary
from samora_pipeline.evaluation.significance import ranking_remark


def main(arguments: list[str]) -> None:
    """Read the first fold of each run and print one column per run."""
    summaries = {}
    for argument in arguments:
        name, _, run = argument.partition("=")
        folder = min(Path(run).glob("fold_*"))
        summaries[name] = read_json(Summary, folder / SUMMARY_FILE)
    first = next(iter(summaries.values()))
    print(
        f"{' '.join(first.warnings)}  Dice and HD95 {first.distance_unit}, protocol physical, {first.n} cases".strip()
    )
    print(f"{'organ':14}", *(f"{name:>16}" for name in summaries))
    for key, organ in first.labels.items():
        print(f"{organ:14}", *(_cell(summary.mean[key]) for summary in summaries.values()))
    print(f"{'mean':14}", *(_cell(summary.foreground_mean) for summary in summaries.values()))
    if remark := ranking_remark(first.bootstrap.n):
        print(remark)


def _cell(mean: MeanMetrics) -> str:
    dice, distance = (f"{value:.{digits}f}" if value is not None else "-" for value, digits in _values(mean))
    return f"{dice:>8} {distance:>7}"


def _values(mean: MeanMetrics) -> tuple[tuple[float | None, int], ...]:
    return (mean.Dice, 3), (mean.HD95, 1)


if __name__ == "__main__":
    main(sys.argv[1:])
