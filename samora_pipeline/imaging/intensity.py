"""Intensities: how they are measured, which limits in source units become 0 and 1, and how these are planned.

A scheme is one class in ``INTENSITY_SCHEMES``, or one from outside as ``package.module:Class``. A channel name that
says nothing about its intensities is an error, never a default.

Shape legend: C channels; H, W rows and columns.
"""

import re
import statistics
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.fingerprint import IntensityStats
from samora_pipeline.contracts.plans import IntensityRule, Planned
from samora_pipeline.registry import Registry

Limits = tuple[float, float]


@dataclass(frozen=True)
class ChannelEvidence:
    """What is known about a channel when its rule is planned.

    ``window`` is the dataset's published one (HU). ``foreground`` pools voxels under foreground labels of the training
    cases (None without labels), ``volumes`` has the statistics of each of these cases.
    """

    name: str
    window: Limits | None
    foreground: IntensityStats | None
    volumes: Sequence[IntensityStats]


class IntensityScheme(Protocol):
    """One scheme. Written as ``NAME`` or ``NAME:PARAMETERS`` (``--set intensity.0=window:-125,275``).

    ``channels`` are the channel names that stand for it, in lower case without spaces, underscores and dashes.
    ``magnitude``: whether its channels are taken for magnitude images, whose noise is Rician (MR).
    ``measured``: whether its limits depend on the volume. ``form`` is shown where its text cannot be read.
    """

    channels: ClassVar[frozenset[str]] = frozenset()
    magnitude: ClassVar[bool] = True
    measured: ClassVar[bool] = True
    form: ClassVar[str] = "no parameters"

    @abstractmethod
    def limits(self, rule: IntensityRule, volume: IntensityStats) -> Limits:
        """The (low, high) in source units that become 0 and 1 in a volume with these statistics."""

    @abstractmethod
    def plan(self, scheme: str, channel: ChannelEvidence) -> Planned[IntensityRule]:
        """The rule for a channel, with the reason; ``scheme`` is the name that this scheme goes by."""

    def read(self, scheme: str, parameters: str) -> IntensityRule | None:
        """The rule that ``--set`` writes, or None when the parameters cannot be read."""
        return None if parameters else IntensityRule(scheme)


INTENSITY_SCHEMES: Registry[type[IntensityScheme]] = Registry("intensity scheme")

# nnU-Net's names (CT, zscore, noNorm, rescale_to_0_1, rgb_to_0_1) and what public datasets write.
_MAGNETIC_RESONANCE = frozenset({"mr", "mri", "lge", "lgemri", "cine", "bssfp", "mprage", "adc", "dwi", "swi"})
_WEIGHTED = frozenset({"t1", "t2", "t1w", "t2w", "t1c", "t1ce", "t1gd", "t1n", "t2f", "flair", "t2flair", "pd", "pdw"})
_COLOURS = frozenset({"r", "g", "b", "red", "green", "blue", "rgb", "rgbto01"})


@INTENSITY_SCHEMES.register("window")
class Window(IntensityScheme):
    """Fixed limits in source units: Hounsfield units of CT, colours from 0 to 255."""

    channels = frozenset({"ct"}) | _COLOURS
    magnitude = False
    measured = False
    form = "window:LOW,HIGH with LOW below HIGH"

    def limits(self, rule: IntensityRule, volume: IntensityStats) -> Limits:
        """The limits of the rule."""
        if rule.low is None or rule.high is None:
            raise ValueError("a window needs low and high")
        return rule.low, rule.high

    def plan(self, scheme: str, channel: ChannelEvidence) -> Planned[IntensityRule]:
        """The published window, else the foreground's percentiles, else the median of those of whole volumes."""
        name, count = channel.name, len(channel.volumes)
        if plain_name(name) in _COLOURS:
            return Planned(IntensityRule(scheme, 0.0, 255.0), f"{name}: colours from 0 to 255")
        if channel.window is not None:
            return Planned(IntensityRule(scheme, *channel.window), f"{name}: the published window (samora.json)")
        if (pooled := channel.foreground) is not None:
            rule = IntensityRule(scheme, pooled.percentile_00_5, pooled.percentile_99_5)
            shown = f"{rule.low:g} and {rule.high:g} are the 0.5 and 99.5 percentiles of the foreground"
            return Planned(rule, f"{name}: {shown} in {count} training cases")
        low = statistics.median(volume.percentile_00_5 for volume in channel.volumes)
        high = statistics.median(volume.percentile_99_5 for volume in channel.volumes)
        why = f"{name}: no labels, so the median 0.5 and 99.5 percentiles of {count} whole volumes"
        return Planned(IntensityRule(scheme, low, high), why)

    def read(self, scheme: str, parameters: str) -> IntensityRule | None:
        """``LOW,HIGH``."""
        match = re.fullmatch(r"(-?\d+(?:\.\d+)?),(-?\d+(?:\.\d+)?)", parameters)
        if match is None or float(match[1]) >= float(match[2]):
            return None
        return IntensityRule(scheme, float(match[1]), float(match[2]))


@INTENSITY_SCHEMES.register("percentiles")
class Percentiles(IntensityScheme):
    """Each volume's own 0.5 and 99.5 percentiles: intensities without units, as of MR."""

    channels = frozenset({"zscore"}) | _MAGNETIC_RESONANCE | _WEIGHTED

    def limits(self, rule: IntensityRule, volume: IntensityStats) -> Limits:
        """The volume's percentiles."""
        return volume.percentile_00_5, volume.percentile_99_5

    def plan(self, scheme: str, channel: ChannelEvidence) -> Planned[IntensityRule]:
        """From the name alone."""
        why = f"{channel.name}: no units, so each volume's own 0.5 and 99.5 percentiles"
        return Planned(IntensityRule(scheme), why)


@INTENSITY_SCHEMES.register("range")
class Range(IntensityScheme):
    """Each volume's own minimum and maximum: intensities that were scaled before."""

    channels = frozenset({"nonorm", "rescaleto01", "rescaled"})

    def limits(self, rule: IntensityRule, volume: IntensityStats) -> Limits:
        """The volume's extremes."""
        return volume.minimum, volume.maximum

    def plan(self, scheme: str, channel: ChannelEvidence) -> Planned[IntensityRule]:
        """From the name alone."""
        return Planned(IntensityRule(scheme), f"{channel.name}: each volume's own minimum and maximum")


def scheme_of(rule: IntensityRule) -> IntensityScheme:
    """The scheme of a rule.

    Raises:
        UsageError: ``E-NAME-01`` neither a registered name nor an importable path.
    """
    return INTENSITY_SCHEMES.get(rule.scheme)()


def scheme_of_channel(name: str) -> str | None:
    """The scheme that a channel name stands for, or None when the name says nothing."""
    plain = plain_name(name)
    return next((own for own in INTENSITY_SCHEMES.names() if plain in INTENSITY_SCHEMES.get(own).channels), None)


def read_rule(text: str) -> IntensityRule | None:
    """Read ``SCHEME`` or ``SCHEME:PARAMETERS``; SCHEME may be ``package.module:Class``. None: not its parameters.

    Raises:
        UsageError: ``E-NAME-01`` no such scheme.
    """
    scheme, _, parameters = text.partition(":")
    if scheme not in INTENSITY_SCHEMES.names() and parameters:
        attribute, _, parameters = parameters.partition(":")
        scheme = f"{scheme}:{attribute}"
    return INTENSITY_SCHEMES.get(scheme)().read(scheme, parameters)


def plain_name(channel: str) -> str:
    """A channel name in lower case without spaces, underscores and dashes (nnU-Net's names are compared so)."""
    return re.sub(r"[\s_-]", "", channel.lower())


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
    std, minimum, maximum = float(np.sqrt(squares / values.size)), float(values.min()), float(values.max())
    return IntensityStats(mean, std, minimum, maximum, low, median, high)


def fits_int16(array: npt.NDArray[Any]) -> bool:
    """Whether all values are whole numbers in the range of int16, so that they can be stored so without loss."""
    if array.dtype in (np.int16, np.int8, np.uint8):
        return True
    if array.size and not (_INT16.min <= array.min() and array.max() <= _INT16.max):
        return False
    return array.dtype.kind in "iu" or all(np.array_equal(block, np.rint(block)) for block in _blocks(array.ravel("K")))


def _count_int16(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    counts = np.zeros(1 << 16, dtype=np.int64)
    planes = values if values.ndim > 1 else values[None]
    step = max(1, _BLOCK // max(1, planes[0].size))
    # Some planes at a time: the voxels of a flipped volume lie in no order that could be walked without a copy.
    for start in range(0, len(planes), step):
        block = planes[start : start + step].ravel()
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

    std = float(np.sqrt((np.square(values - mean) * numbers).sum() / total))
    low, median, high = (percentile(share) for share in (LOW_PERCENTILE, 50.0, HIGH_PERCENTILE))
    return IntensityStats(mean, std, float(values[0]), float(values[-1]), low, median, high)


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
