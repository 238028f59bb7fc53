"""Bootstrap intervals of mean scores. The unit is the patient: all cases of a patient are drawn together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.scores import Bootstrap, Interval

Values = npt.NDArray[np.float64]


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
