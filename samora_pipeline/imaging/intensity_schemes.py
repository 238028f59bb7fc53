"""Intensity schemes: which limits in source units become 0 and 1, how a scheme is planned, and how it is written.

A scheme is one class in ``INTENSITY_SCHEMES``, or one from outside as ``package.module:Class``. A channel name that
says nothing about its intensities is an error, never a default.
"""

import re
import statistics
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

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
