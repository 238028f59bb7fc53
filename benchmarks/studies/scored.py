"""The scores of a study's cells: a variant at one label budget, its seeds averaged within each case and label."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.scores import Bootstrap, Interval, Summary
from samora_pipeline.evaluation.significance import resampler

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """One finished run. ``label`` and ``what`` are those of its variant; ``hours`` covers all stages of training."""

    label: str
    what: str
    budget: str
    seed: int
    summary: Summary
    folder: Path
    scans: int
    steps: int
    hours: float


@dataclass(frozen=True)
class Measured:
    """A mean over labels of means over cases, with its bootstrap interval over patients (None: it is not defined)."""

    mean: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Cell:
    """The finished seeds of one variant at one label budget."""

    runs: tuple[Scored, ...]

    @property
    def first(self) -> Scored:
        """The run that speaks for the others."""
        return self.runs[0]

    @property
    def hours(self) -> float:
        """Mean hours of training."""
        return sum(run.hours for run in self.runs) / len(self.runs)

    def physical(self, metric: str) -> Measured:
        """A metric of the protocol ``physical``."""
        return self._measured([_physical(run.summary, metric) for run in self.runs])

    def sam_family(self, metric: str) -> Measured:
        """A metric of the protocol ``sam_family``."""
        return self._measured([_sam_family(run.summary, metric) for run in self.runs])

    def _measured(self, seeds: Sequence[Values]) -> Measured:
        patients = [row.patient for row in self.first.summary.metric_per_case]
        with warnings.catch_warnings():
            # A case and label without any value has no mean; it stays undefined.
            warnings.simplefilter("ignore", RuntimeWarning)
            values: Values = np.nanmean(np.stack(seeds), axis=0)
            mean = float(np.nanmean(np.nanmean(values, axis=0)))
        interval, _ = resampler(patients, Bootstrap(n=len(set(patients)))).intervals(values)
        return Measured(None if np.isnan(mean) else mean, interval)


def complete_cells(runs: Sequence[Scored]) -> tuple[list[Cell], list[Scored]]:
    """Cells per budget with the seeds that all variants of that budget have finished, and the runs that are left out.

    A variant without any finished run at a budget does not count there.
    """
    cells: list[Cell] = []
    left_out: list[Scored] = []
    for budget in dict.fromkeys(run.budget for run in runs):
        here = [run for run in runs if run.budget == budget]
        labels = list(dict.fromkeys(run.label for run in here))
        shared = set.intersection(*({run.seed for run in here if run.label == label} for label in labels))
        left_out += [run for run in here if run.seed not in shared]
        grouped = [tuple(run for run in here if run.label == label and run.seed in shared) for label in labels]
        cells += [Cell(group) for group in grouped if group]
    return cells, left_out


def read_summary(path: Path) -> Summary:
    """The scores of a run."""
    return read_json(Summary, path)


def _physical(summary: Summary, metric: str) -> Values:
    rows = [[getattr(row.metrics[key], metric) for key in summary.labels] for row in summary.metric_per_case]
    return np.array(rows, dtype=np.float64)


def _sam_family(summary: Summary, metric: str) -> Values:
    rows = [[getattr(row.metrics[key], metric) for key in summary.labels] for row in summary.sam_family.metric_per_case]
    return np.array(rows, dtype=np.float64)
