"""Dice over the number of labelled slices: a fitted curve, and what the next slices should bring.

The model is the power law of learning curves, Dice = a - b n^-c, fitted by least squares with a in (0, 1], b >= 0 and c
in [0.05, 3]. Intervals come from a bootstrap by patient: patients are drawn with replacement, the same for all runs,
and the curve is fitted again. They hold for other patients, and not for other draws of labels, other seeds, or a power
law that is wrong.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
from scipy.optimize import curve_fit

from samora_pipeline.contracts.scores import Summary
from samora_pipeline.contracts.stored_case import SLICES_FOLDER, read_stored_case
from samora_pipeline.errors import DataError
from samora_pipeline.evaluation.comparison import check_comparable
from samora_pipeline.evaluation.run_scores import ScoredRun
from samora_pipeline.reproducibility import derived_seed

LEAST_BUDGETS = 4
"""a curve of three numbers fits three points whatever they are"""
_RESAMPLES = 200
_EXPONENTS = (0.2, 0.5, 1.0)
"""starting values: the sum of squares has flat valleys"""
_LOWER, _UPPER = (1e-6, 0.0, 0.05), (1.0, np.inf, 3.0)
_LEVEL = (2.5, 97.5)

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class BudgetPoint:
    """A run: its labelled slices, and its mean Dice with the 95 % bootstrap interval by patient."""

    label: str
    slices: int
    dice: float
    low: float
    high: float


@dataclass(frozen=True)
class BudgetCurve:
    """Dice = a - b n^-c through the points; ``residual`` is the root mean square distance of the points from it."""

    points: tuple[BudgetPoint, ...]
    a: float
    b: float
    c: float
    residual: float
    resampled: tuple[tuple[float, float, float], ...]

    def at(self, slices: int) -> tuple[float, float, float]:
        """The predicted Dice at a number of slices, with its 95 % interval."""
        drawn = [power_law(np.array([float(slices)]), *one)[0] for one in self.resampled]
        low, high = np.percentile(drawn, _LEVEL)
        return float(power_law(np.array([float(slices)]), self.a, self.b, self.c)[0]), float(low), float(high)

    def gain(self, more: int) -> tuple[float, float, float]:
        """What so many slices more than the most should bring, by the curve alone, with its 95 % interval."""
        most = float(max(point.slices for point in self.points))
        places = np.array([most, most + more])
        drawn = [np.diff(power_law(places, *one))[0] for one in self.resampled]
        low, high = np.percentile(drawn, _LEVEL)
        return float(np.diff(power_law(places, self.a, self.b, self.c))[0]), float(low), float(high)


def power_law(slices: Values, a: float, b: float, c: float) -> Values:
    """a - b n^-c."""
    return a - b * slices**-c


def fit_power_law(slices: Values, dice: Values, exponents: Sequence[float] = _EXPONENTS) -> tuple[float, float, float]:
    """The least-squares a, b, c of points [n], the best of those from several starting values of c."""
    top = min(0.999, float(dice.max()) + 0.02)
    found = []
    for exponent in exponents:
        below = max(1e-3, float(top - dice[slices.argmin()]) * float(slices.min()) ** exponent)
        fitted, _ = curve_fit(
            power_law, slices, dice, p0=(top, below, exponent), bounds=(_LOWER, _UPPER), max_nfev=2000
        )
        a, b, c = (float(value) for value in fitted)
        found.append((float(np.square(power_law(slices, a, b, c) - dice).sum()), (a, b, c)))
    return min(found)[1]


def fit_budgets(runs: Sequence[ScoredRun], preprocessed: Path) -> BudgetCurve:
    """Fit the curve through scored runs that differ in their labels.

    Args:
        runs: scored on the same cases by the same rules.
        preprocessed: the folder of planned datasets, where slices of cases that are labelled throughout are counted.

    Raises:
        DataError: ``E-CMP-03`` runs that were not scored alike, ``E-CMP-06`` fewer than four numbers of slices or two
            patients, ``E-CMP-07`` a case whose slices cannot be counted.
    """
    check_comparable(runs, same_split=False)
    slices = np.array([float(labelled_slices(run, preprocessed)) for run in runs])
    patients = [dice_by_patient(run.summary) for run in runs]
    shared = sorted(set.intersection(*(set(one) for one in patients)))
    budgets = len(set(slices.tolist()))
    if budgets < LEAST_BUDGETS or len(shared) < 2:
        raise DataError("E-CMP-06", least=LEAST_BUDGETS, found=f"{budgets} budgets, {len(shared)} patients")
    table = np.array([[one[patient] for patient in shared] for one in patients])
    return _fit(slices, table, [run.label for run in runs])


def _fit(slices: Values, table: Values, labels: Sequence[str]) -> BudgetCurve:
    """Fit Dice [runs, patients] over slices [runs], and again for every resample of the patients."""
    a, b, c = fit_power_law(slices, table.mean(axis=1))
    generator = np.random.default_rng(derived_seed(0, "budgets"))
    draws = generator.integers(0, table.shape[1], (_RESAMPLES, table.shape[1]))
    means = np.array([table[:, draw].mean(axis=1) for draw in draws])
    resampled = tuple(fit_power_law(slices, one, (c,)) for one in means)
    low, high = np.percentile(means, _LEVEL, axis=0)
    points = tuple(
        BudgetPoint(label, int(count), float(row.mean()), float(under), float(over))
        for label, count, row, under, over in zip(labels, slices, table, low, high, strict=True)
    )
    distance = table.mean(axis=1) - power_law(slices, a, b, c)
    ordered = tuple(sorted(points, key=lambda point: point.slices))
    return BudgetCurve(ordered, a, b, c, float(np.sqrt(np.square(distance).mean())), resampled)


def dice_by_patient(summary: Summary) -> dict[str, float]:
    """The mean Dice of each patient over its cases and organs; organs without a score are left out."""
    scores: dict[str, list[float]] = {}
    for case in summary.metric_per_case:
        own = [organ.Dice for organ in case.metrics.values() if organ.Dice is not None]
        if own:
            scores.setdefault(case.patient, []).append(fmean(own))
    return {patient: fmean(values) for patient, values in scores.items()}


def labelled_slices(run: ScoredRun, preprocessed: Path) -> int:
    """The labelled slices that a run learned from; over several folds their mean."""
    counts = []
    for config in run.configs:
        chosen: Mapping[str, Sequence[int]] = config.selection.slices
        counts.append(
            sum(
                len(chosen[case]) if case in chosen else _stored_slices(preprocessed / config.dataset, case)
                for case in config.selection.cases
            )
        )
    return round(fmean(counts))


def _stored_slices(dataset: Path, case: str) -> int:
    path = dataset / SLICES_FOLDER / f"{case}.json"
    if not path.is_file():
        raise DataError("E-CMP-07", case=case, dataset=dataset.name, found=f"no {path}")
    return read_stored_case(path).shape[0]
