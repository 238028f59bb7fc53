"""plans.json: what was decided from the data. Every value carries its reason; later stages read only this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

PLANS_FILE = "plans.json"

T = TypeVar("T")

SliceAxis = Literal["axial", "coronal", "sagittal"]
InPlaneRule = Literal["resize", "resample_and_pad", "shrink_and_pad"]
ChannelRule = Literal["repeat", "as_is", "adapter"]
IntensityScheme = Literal["window", "percentiles", "range"]

# Direction in which the index of (slice, row, column) grows, as anatomical letters: the view a radiologist expects.
SLICE_AXES: dict[str, str] = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}


@dataclass(frozen=True)
class Planned(Generic[T]):
    """A value and the reason for it."""

    value: T
    why: str


@dataclass(frozen=True)
class IntensityRule:
    """How one channel becomes [0, 1]: clip to (low, high), subtract low, divide by (high - low).

    ``window``: low and high are fixed, in source units. ``percentiles``: they are each volume's own 0.5 and 99.5
    percentiles. ``range``: each volume's own minimum and maximum.
    """

    scheme: IntensityScheme
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Plans:
    """The plan of one dataset.

    A slice goes from the source grid to ``slice_size`` x ``slice_size`` (by ``in_plane``: resize the field of view, or
    resample to ``in_plane_spacing`` mm and pad or crop centrally), then to ``input_size`` if that differs.
    ``shrink_and_pad`` never enlarges: pixels finer than ``in_plane_spacing`` mm are resampled to it, the slice is
    padded to a square of at least ``input_size``, and that is shrunk to ``input_size``; nothing is cut off.
    ``batch_size`` is the micro-batch that fits the memory that was planned for. ``mirror``: whether
    slices may be flipped as augmentation.
    """

    dataset: str
    channel_names: tuple[str, ...]
    slice_axis: Planned[SliceAxis]
    in_plane: Planned[InPlaneRule]
    in_plane_spacing: Planned[float | None]
    slice_size: Planned[int]
    input_size: Planned[int]
    channels: Planned[ChannelRule]
    intensity: Planned[tuple[IntensityRule, ...]]
    batch_size: Planned[int]
    mirror: Planned[bool]
    fingerprint_digest: str
    schema_version: int = 1
