"""Bootstrap intervals of mean scores, and tests of paired differences. The unit is always the patient.

All cases of a patient are drawn together; seeds are averaged within a patient before two methods are compared, because
more seeds are not more patients.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from samora_pipeline.contracts.scores import Bootstrap, Interval

Values = npt.NDArray[np.float64]

RANKING_NEEDS = 10
"""Patients below which no ranking is supported: the t interval is then more than 0.7 standard deviations wide to
each side, wider than the differences that methods are ranked by."""


@dataclass(frozen=True)
class Resampler:
    """How often each patient was drawn in each resample; shared by all metrics, so that they stay comparable.

    ``membership`` (cases, patients) is one where a case belongs to a patient; ``draws`` (resamples, patients).
    """

    membership: Values
    draws: Values
    level: float

    def intervals(self, values: Values) -> tuple[Interval | None, list[Interval | None]]:
        """Return the interval of the mean over labels, and of each label's mean over cases.

        ``values`` is (cases, labels), NaN where a case has no score; an interval is None where fewer than two patients
        have one. In each resample a label's mean is taken first, then the mean over labels, as in the summary.
        """
        defined = np.isfinite(values)
        sums = self.membership.T @ np.where(defined, values, 0.0)
        counts = self.membership.T @ defined
        supported = (counts > 0).sum(axis=0) >= 2
        with np.errstate(invalid="ignore"):
            means = (self.draws @ sums) / (self.draws @ counts)
            drawn = np.isfinite(means)
            overall = np.where(drawn, means, 0.0).sum(axis=1) / drawn.sum(axis=1)
        per_label = [self._interval(means[:, label]) if supported[label] else None for label in range(means.shape[1])]
        return (self._interval(overall) if supported.any() else None), per_label

    def _interval(self, means: Values) -> Interval:
        tail = 50 * (1 - self.level)
        # A resample may hold no patient with the organ; it says nothing about the organ's mean.
        low, high = np.nanpercentile(means, [tail, 100 - tail])
        return Interval(float(low), float(high))


def resampler(patients: Sequence[str], settings: Bootstrap) -> Resampler:
    """Draw the resamples for cases of these ``patients`` (one name per case); the seed repeats them exactly."""
    names = sorted(set(patients))
    membership = np.array([[float(patient == name) for name in names] for patient in patients])
    generator = np.random.default_rng(settings.seed)
    draws = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=settings.resamples)
    return Resampler(membership, draws.astype(np.float64), settings.level)


@dataclass(frozen=True)
class PairedTest:
    """The mean of ``n`` paired differences, one per patient, and what supports it.

    ``interval`` is that of the paired t-test, ``bootstrap`` the percentile interval over patients, both at 95 %. A
    p-value is None where it is not defined: fewer than two patients, or differences that are all the same.
    """

    n: int
    difference: float | None
    interval: Interval | None
    bootstrap: Interval | None
    t_p: float | None
    wilcoxon_p: float | None


def paired_test(differences: Sequence[float], level: float = 0.95) -> PairedTest:
    """Test whether the mean difference is zero: paired t-test, Wilcoxon's signed ranks, and a bootstrap interval.

    Each difference belongs to one patient. Wilcoxon leaves zero differences out and is exact for up to 50 patients
    without ties.
    """
    values = np.asarray(differences, dtype=np.float64)
    if len(values) < 2:
        only = float(values[0]) if len(values) else None
        return PairedTest(len(values), only, None, None, None, None)
    mean, spread = float(values.mean()), float(values.std(ddof=1))
    draws = resampler([str(index) for index in range(len(values))], Bootstrap(n=len(values), level=level))
    bootstrap, _ = draws.intervals(values[:, None])
    # Equal differences that came out of a subtraction differ in their last bits; that is no spread to test against.
    if spread <= 1e-12 * max(1.0, abs(mean)):
        return PairedTest(len(values), mean, Interval(mean, mean), bootstrap, None, None)
    half = float(stats.t.ppf((1 + level) / 2, len(values) - 1)) * spread / len(values) ** 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        t_p = float(stats.ttest_1samp(values, 0.0).pvalue)
        wilcoxon_p = float(stats.wilcoxon(values).pvalue)
    return PairedTest(len(values), mean, Interval(mean - half, mean + half), bootstrap, t_p, wilcoxon_p)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust the p-values of one family (one table) after Holm (1979); undefined ones stay so and do not count."""
    defined = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(defined):
        largest = max(largest, min(1.0, (len(defined) - rank) * p))
        adjusted[index] = largest
    return adjusted


def ranking_remark(n: int) -> str:
    """The sentence printed where ``n`` patients are too few to rank methods; empty otherwise."""
    if n >= RANKING_NEEDS:
        return ""
    return f"n = {n} patient{'s' * (n != 1)} cannot support a ranking"
