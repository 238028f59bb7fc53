"""Measuring intensities and bringing them to [0, 1] as the plan says.

Shape legend: C channels; H, W rows and columns.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.fingerprint import IntensityStats
from samora_pipeline.contracts.plans import IntensityRule
from samora_pipeline.imaging.intensity_schemes import scheme_of

LOW_PERCENTILE = 0.5
HIGH_PERCENTILE = 99.5

_INT16 = np.iinfo(np.int16)
_BLOCK = 1 << 20


def measure(values: npt.NDArray[Any]) -> IntensityStats:
    """Statistics of any number of finite values, at least one, in their own units."""
    if fits_int16(values):
        return _measure_counts(_count_int16(values))
    low, median, high = np.percentile(values, (LOW_PERCENTILE, 50.0, HIGH_PERCENTILE)).tolist()
    flat = values.ravel("K")
    mean = float(flat.mean(dtype=np.float64))
    # In blocks: a second volume in float64 would be four to eight times as large as the first.
    squares = sum(float(np.square(block.astype(np.float64) - mean).sum()) for block in _blocks(flat))
    return IntensityStats(
        mean=mean,
        std=float(np.sqrt(squares / values.size)),
        minimum=float(values.min()),
        maximum=float(values.max()),
        percentile_00_5=low,
        median=median,
        percentile_99_5=high,
    )


def fits_int16(array: npt.NDArray[Any]) -> bool:
    """Whether all values are whole numbers in the range of int16, so that they can be stored so without loss."""
    if array.dtype in (np.int16, np.int8, np.uint8):
        return True
    if array.size and not (_INT16.min <= array.min() and array.max() <= _INT16.max):
        return False
    return array.dtype.kind in "iu" or all(np.array_equal(block, np.rint(block)) for block in _blocks(array.ravel("K")))


def _count_int16(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    counts = np.zeros(1 << 16, dtype=np.int64)
    for block in _blocks(values.ravel("K")):
        counts += np.bincount(block.astype(np.int64) - _INT16.min, minlength=counts.size)
    return counts


def _measure_counts(counts: npt.NDArray[np.int64]) -> IntensityStats:
    """The same statistics, exactly, from the number of voxels of each int16 value."""
    present = np.flatnonzero(counts)
    values, numbers = present.astype(np.float64) + _INT16.min, counts[present]
    total = int(numbers.sum())
    mean = float((values * numbers).sum() / total)
    ranks = np.cumsum(numbers)

    def percentile(share: float) -> float:
        position = share / 100 * (total - 1)
        lower, upper = (
            values[np.searchsorted(ranks, rank, side="right")] for rank in (np.floor(position), np.ceil(position))
        )
        return float(lower + (upper - lower) * (position - np.floor(position)))

    return IntensityStats(
        mean=mean,
        std=float(np.sqrt((np.square(values - mean) * numbers).sum() / total)),
        minimum=float(values[0]),
        maximum=float(values[-1]),
        percentile_00_5=percentile(LOW_PERCENTILE),
        median=percentile(50.0),
        percentile_99_5=percentile(HIGH_PERCENTILE),
    )


def _blocks(flat: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    return (flat[start : start + _BLOCK] for start in range(0, flat.size, _BLOCK))


def normalize(
    images: npt.NDArray[Any], rules: Sequence[IntensityRule], volumes: Sequence[IntensityStats]
) -> npt.NDArray[np.float32]:
    """Bring images [..., C, H, W] from source units to [0, 1]: clip to (low, high), subtract low, divide.

    ``rules`` (of the plan) and ``volumes`` (statistics of the whole volume, of the case's record) hold one entry per
    channel. A channel without any contrast (high = low) becomes 0.

    Raises:
        UsageError: ``E-NAME-01`` for a rule whose scheme is neither registered nor importable.
    """
    result = images.astype(np.float32)
    for channel, (rule, volume) in enumerate(zip(rules, volumes, strict=True)):
        low, high = scheme_of(rule).limits(rule, volume)
        view = result[..., channel, :, :]
        np.clip(view, low, high, out=view)
        view -= np.float32(low)
        view *= np.float32(1.0 / (high - low) if high > low else 0.0)
        # Rounding may carry the upper limit past 1.
        np.minimum(view, np.float32(1.0), out=view)
    return result
