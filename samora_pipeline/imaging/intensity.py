"""Measuring intensities and bringing them to [0, 1] as the plan says.

Shape legend: C channels; H, W rows and columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.fingerprint import IntensityStats
from samora_pipeline.contracts.plans import IntensityRule

LOW_PERCENTILE = 0.5
HIGH_PERCENTILE = 99.5


def measure(values: npt.NDArray[Any]) -> IntensityStats:
    """Statistics of any number of finite values, at least one, in their own units."""
    low, median, high = _percentiles(values)
    return IntensityStats(
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        minimum=float(values.min()),
        maximum=float(values.max()),
        percentile_00_5=low,
        median=median,
        percentile_99_5=high,
    )


def limits(rule: IntensityRule, percentiles: tuple[float, float], extremes: tuple[float, float]) -> tuple[float, float]:
    """The (low, high) in source units that a rule maps to 0 and 1 for a volume with these measurements."""
    if rule.scheme == "percentiles":
        return percentiles
    if rule.scheme == "range":
        return extremes
    if rule.low is None or rule.high is None:
        raise ValueError("a window needs low and high")
    return rule.low, rule.high


def normalize(
    images: npt.NDArray[Any],
    rules: tuple[IntensityRule, ...],
    percentiles: tuple[tuple[float, float], ...],
    extremes: tuple[tuple[float, float], ...],
) -> npt.NDArray[np.float32]:
    """Bring images [..., C, H, W] from source units to [0, 1]: clip to (low, high), subtract low, divide.

    ``rules``, ``percentiles`` and ``extremes`` hold one entry per channel (plans.json and the case's record). A
    channel without any contrast (high = low) becomes 0.
    """
    result = images.astype(np.float32)
    for channel, (rule, own, ends) in enumerate(zip(rules, percentiles, extremes, strict=True)):
        low, high = limits(rule, own, ends)
        view = result[..., channel, :, :]
        np.clip(view, low, high, out=view)
        view -= np.float32(low)
        view *= np.float32(1.0 / (high - low) if high > low else 0.0)
        # Rounding may carry the upper limit past 1.
        np.minimum(view, np.float32(1.0), out=view)
    return result


def _percentiles(values: npt.NDArray[Any]) -> tuple[float, float, float]:
    low, median, high = np.percentile(values, (LOW_PERCENTILE, 50.0, HIGH_PERCENTILE)).tolist()
    return low, median, high
