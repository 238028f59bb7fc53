"""plans.json: what was decided from the data. Every value carries its reason; later stages read only this."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal, TypeVar

from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.files import digest_json

PLANS_FILE = "plans.json"

T = TypeVar("T")

SliceAxis = Literal["axial", "coronal", "sagittal"]
InPlaneRule = Literal["resize", "resample_and_pad", "shrink_and_pad"]
ChannelRule = Literal["repeat", "as_is", "adapter"]

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

    ``scheme``, a name of ``imaging.intensity.INTENSITY_SCHEMES`` or ``package.module:Class``, says what (low, high) are
    for a volume; ``low`` and ``high`` here are the scheme's parameters (the limits themselves for ``window``).
    """

    scheme: str
    low: float | None = None
    high: float | None = None

    @property
    def text(self) -> str:
        """The rule in words: ``window -125 to 275``, ``percentiles``."""
        return self.scheme + ("" if self.low is None or self.high is None else f" {self.low:g} to {self.high:g}")


@dataclass(frozen=True)
class Plans:
    """The plan of one dataset.

    A slice goes from the source grid to ``slice_size`` x ``slice_size`` (by ``in_plane``: resize the field of view, or
    resample to ``in_plane_spacing`` mm and pad or crop centrally), then to the input size of the run's network if that
    differs; a ``slice_size`` of None is that input size. ``shrink_and_pad`` never enlarges: pixels finer than
    ``in_plane_spacing`` mm are resampled to it, the slice is padded to a square of at least the input size, and that is
    shrunk to the input size; nothing is cut off. ``input_size`` is no more than the dataset's preference (None: the run
    decides). ``mirror``: whether slices may be flipped as augmentation.

    ``planner`` names the class that decided, ``overrides`` holds the ``--set`` values, and ``decided`` the digest of
    each value as it was decided: a value with another digest was edited by hand.
    """

    dataset: str
    channel_names: tuple[str, ...]
    slice_axis: Planned[SliceAxis]
    in_plane: Planned[InPlaneRule]
    in_plane_spacing: Planned[float | None]
    slice_size: Planned[int | None]
    input_size: Planned[int | None]
    channels: Planned[ChannelRule]
    intensity: Planned[tuple[IntensityRule, ...]]
    mirror: Planned[bool]
    fingerprint_digest: str
    planner: str = "ExperimentPlanner"
    overrides: dict[str, str] = field(default_factory=dict)
    decided: dict[str, str] = field(default_factory=dict)
    schema_version: int = 2

    @property
    def planned(self) -> dict[str, Planned[Any]]:
        """All values with their reasons, by name."""
        values = {own.name: getattr(self, own.name) for own in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Planned)}

    @property
    def edited(self) -> dict[str, Any]:
        """The values that were edited by hand, by key (``slice_axis``, ``intensity.0``)."""
        values: dict[str, Any] = {name: planned.value for name, planned in self.planned.items()}
        rules = values.pop("intensity")
        values |= {f"intensity.{index}": rule for index, rule in enumerate(rules)}
        return {
            key: value for key, value in values.items() if key in self.decided and self.decided[key] != _digest(value)
        }


def decided_digests(values: Mapping[str, Any]) -> dict[str, str]:
    """``Plans.decided`` for decided values by key."""
    return {key: _digest(value) for key, value in values.items()}


def _digest(value: Any) -> str:
    return digest_json(to_plain(value))[:16]
