"""Decides the plan from the fingerprint. One small method per decision, so that a new rule is one subclass.

Each value carries a sentence with the numbers it came from. ``--set key=value`` overrides any of them, and a value that
was edited in plans.json stays; the sentence then says so.
"""

import statistics
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar, get_args

from planners.laterality import opposite_pairs
from planners.overrides import check_keys, read_override, unusable
from samora_pipeline.contracts.dataset import RawDataset
from samora_pipeline.contracts.fingerprint import CaseFingerprint, Fingerprint
from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.plans import (
    ChannelRule,
    InPlaneRule,
    IntensityRule,
    Planned,
    Plans,
    SliceAxis,
    decided_digests,
)
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_json
from samora_pipeline.imaging.intensity import INTENSITY_SCHEMES, ChannelEvidence, scheme_of_channel
from samora_pipeline.imaging.volume import slice_order
from samora_pipeline.registry import Registry

T = TypeVar("T")

DEFAULT_PLANNER = "ExperimentPlanner"
PLANNERS: "Registry[type[ExperimentPlanner]]" = Registry("planner")


@PLANNERS.register(DEFAULT_PLANNER)
class ExperimentPlanner:
    """Plans a dataset. Subclass it and replace the method of the decision that should be taken differently.

    ``overrides`` are the ``--set`` values by key, ``edited`` the values edited by hand, which win. Nothing is decided
    from the cases of a published test set. ``notes`` are sentences about edited values.
    """

    ANISOTROPY: ClassVar[float] = 1.5
    """An axis this much coarser than both others is the one that slices are taken across."""
    FIELD_OF_VIEW_RATIO: ClassVar[float] = 2.0
    """Largest over smallest field of view up to which resizing is kept (published Synapse scans differ by 1.8)."""
    SLICE_SIZE: ClassVar[int] = 224
    """Side of a resampled slice for a dataset without a preferred input size: that of Table 8."""

    def __init__(
        self, dataset: RawDataset, fingerprint: Fingerprint, overrides: Mapping[str, str], edited: Mapping[str, Any]
    ) -> None:
        self.dataset, self.fingerprint = dataset, fingerprint
        self.overrides, self.edited = overrides, edited
        self.notes: list[str] = []
        self.channel_names = channel_names(dataset)
        check_keys(overrides, len(self.channel_names))
        split = dataset.ours.published_split
        scored = frozenset(split.test if split else ())
        usable = {name: case for name, case in fingerprint.cases.items() if name not in scored}
        training = [case for case in usable.values() if case.subset == "train"]
        self.cases = training or list(usable.values()) or list(fingerprint.cases.values())
        self._decided: dict[str, Any] = {}

    def plan(self) -> Plans:
        """Return the whole plan.

        Raises:
            DataError: ``E-CHAN-03`` for a channel name that says nothing, ``E-SPLIT-09`` for a slice axis that a
                published list of slices was not counted along.
            UsageError: ``E-SET-01`` unknown key, ``E-SET-02`` or ``E-SET-03`` unusable value.
        """
        axis = self._settled_axis()
        in_plane = self._settle("in_plane", partial(self.in_plane, axis.value))
        if in_plane.value == "resize" and "in_plane_spacing" in self.overrides:
            given = self.overrides["in_plane_spacing"]
            raise unusable(
                "in_plane_spacing", given, "--set in_plane=resample_and_pad with it: resizing has no spacing"
            )
        input_size = self._settle("input_size", self.input_size)
        slice_size = self._settle("slice_size", partial(self.slice_size, in_plane.value, input_size.value))
        size = slice_size.value or self.SLICE_SIZE
        return Plans(
            dataset=self.fingerprint.dataset,
            channel_names=self.channel_names,
            slice_axis=axis,
            in_plane=in_plane,
            in_plane_spacing=self._settle(
                "in_plane_spacing", partial(self.in_plane_spacing, in_plane.value, axis.value, size)
            ),
            slice_size=slice_size,
            input_size=input_size,
            channels=self._settle("channels", self.channels),
            intensity=self._intensities(),
            mirror=self._settle("mirror", self.mirror),
            fingerprint_digest=digest_json(to_plain(self.fingerprint)),
            overrides=dict(self.overrides),
            decided=decided_digests(self._decided),
        )

    def slice_axis(self) -> Planned[SliceAxis]:
        """Axial, unless one axis is much coarser than both others: then slices lie across that axis."""
        if not self.dataset.ours.spacing_known:
            return Planned("axial", "the voxel sizes are not known, so the usual axial slices are taken")
        axes: tuple[SliceAxis, ...] = get_args(SliceAxis)
        spacing = {axis: statistics.median(self._spacing(case, axis)[0] for case in self.cases) for axis in axes}
        shown = ", ".join(f"{value:.3g} mm across {axis}" for axis, value in spacing.items())
        coarsest = max(spacing, key=lambda axis: spacing[axis])
        second = sorted(spacing.values())[1]
        if spacing[coarsest] > self.ANISOTROPY * second:
            why = f"median spacing {shown}: {coarsest} slices are more than {self.ANISOTROPY:g} times coarser"
            return Planned(coarsest, why)
        return Planned(
            "axial", f"median spacing {shown}: no axis is {self.ANISOTROPY:g} times coarser than both others"
        )

    def in_plane(self, axis: SliceAxis) -> Planned[InPlaneRule]:
        """Resize the field of view (the published protocols), unless the fields differ too much between cases."""
        if not self.dataset.ours.spacing_known:
            return Planned("resize", "the voxel sizes are not known, so the field of view is resized")
        fields = [self._field_of_view(case, axis) for case in self.cases]
        ratio, low, high = max((max(sides) / min(sides), min(sides), max(sides)) for sides in zip(*fields, strict=True))
        shown = f"fields of view from {low:.0f} to {high:.0f} mm, a ratio of {ratio:.2f}"
        if ratio > self.FIELD_OF_VIEW_RATIO:
            return Planned(
                "resample_and_pad", f"{shown} (above {self.FIELD_OF_VIEW_RATIO:g}): resizing would hide the scale"
            )
        return Planned("resize", f"{shown} (up to {self.FIELD_OF_VIEW_RATIO:g})")

    def in_plane_spacing(self, rule: InPlaneRule, axis: SliceAxis, slice_size: int) -> Planned[float | None]:
        """The pixel size that shows the largest field of view whole, but never finer than the finest scan."""
        if rule == "resize":
            return Planned(None, "the field of view is resized, whatever its pixel size")
        largest = max(max(self._field_of_view(case, axis)) for case in self.cases)
        finest = min(min(self._spacing(case, axis)[1:]) for case in self.cases)
        value = round(max(largest / slice_size, finest), 4)
        return Planned(
            value,
            f"the largest field of view, {largest:.0f} mm, fills {slice_size} pixels (finest scan: {finest:.3g} mm)",
        )

    def slice_size(self, rule: InPlaneRule, input_size: int | None) -> Planned[int | None]:
        """The size of a slice before it meets the network; ``input_size`` is the preferred one (None: the run's)."""
        if rule == "resize":
            return Planned(None, "the input size of the run, so that a slice is resized once")
        if input_size is None:
            return Planned(self.SLICE_SIZE, "the published input size (Table 8)")
        return Planned(input_size, "the preferred input size, so that a slice is resized once")

    def input_size(self) -> Planned[int | None]:
        """The input size that the dataset prefers."""
        return Planned(None, "no preference: it is chosen for each run, from backbone, data and device")

    def channels(self) -> Planned[ChannelRule]:
        """How the channels of a scan become the three that SAM expects."""
        count = len(self.channel_names)
        if count == 1:
            return Planned("repeat", "one channel, repeated to the three of the pre-trained encoder")
        if count == 3:
            return Planned("as_is", "three channels, as the pre-trained encoder takes them")
        return Planned("adapter", f"{count} channels need a trained 1 x 1 adapter to the three of the encoder")

    def intensity(self, index: int, name: str) -> Planned[IntensityRule]:
        """How one channel becomes [0, 1], from its name as in nnU-Net."""
        scheme = scheme_of_channel(name)
        if scheme is None:
            raise _unknown_channel(index, name)
        pooled = self.fingerprint.foreground[index] if index < len(self.fingerprint.foreground) else None
        volumes = [case.volume[index] for case in self.cases]
        evidence = ChannelEvidence(name, self.dataset.ours.window, pooled, volumes)
        return INTENSITY_SCHEMES.get(scheme)().plan(scheme, evidence)

    def mirror(self) -> Planned[bool]:
        """Flips of slices, unless the labels tell one direction from its opposite."""
        pinned = self.dataset.ours.mirror
        if pinned is not None:
            return Planned(pinned, "fixed by the dataset's published recipe (samora.json)")
        pairs = opposite_pairs(self.dataset.scheme.names)
        if pairs:
            shown = ", ".join(f"{first}/{second}" for first, second in pairs)
            return Planned(False, f"a mirrored slice would carry wrong labels: {shown}")
        return Planned(True, "no two labels differ in a direction alone")

    def _intensities(self) -> Planned[tuple[IntensityRule, ...]]:
        planned = [
            self._settle(f"intensity.{index}", partial(self.intensity, index, name))
            for index, name in enumerate(self.channel_names)
        ]
        return Planned(tuple(rule.value for rule in planned), "; ".join(rule.why for rule in planned))

    def _settled_axis(self) -> Planned[SliceAxis]:
        """The slice axis; a published list of slices, counted as scans were taken, stands on no other."""
        axis = self._settle("slice_axis", self.slice_axis)
        counted = self.slice_axis().value
        lists = [name for name, budget in self.dataset.ours.budgets.items() if budget.slices]
        if lists and axis.value != counted:
            raise DataError(
                "E-SPLIT-09", lists=", ".join(lists), counted=counted, found=f"slice_axis={axis.value}: {axis.why}"
            )
        return axis

    def _settle(self, key: str, decide: Callable[[], Planned[T]]) -> Planned[T]:
        """What was edited by hand, else what ``--set`` says, else what is decided."""
        if key in self.overrides:
            text = self.overrides[key]
            planned: Planned[T] = Planned(read_override(key, text), f"set by --set {key}={text}")
        else:
            planned = decide()
        self._decided[key] = planned.value
        edited = self.edited.get(key, planned.value)
        if edited == planned.value:
            return planned
        why = f"edited by hand: {key} {_shown(planned.value)} -> {_shown(edited)}"
        self.notes.append(why)
        return Planned(edited, why)

    def _spacing(self, case: CaseFingerprint, axis: SliceAxis) -> tuple[float, float, float]:
        order, _ = slice_order(case.axes, axis)
        steps = _steps(case)
        return steps[order[0]], steps[order[1]], steps[order[2]]

    def _field_of_view(self, case: CaseFingerprint, axis: SliceAxis) -> tuple[float, float]:
        (_, row, column), _ = slice_order(case.axes, axis)
        steps = _steps(case)
        return case.shape[row] * steps[row], case.shape[column] * steps[column]


def _steps(case: CaseFingerprint) -> tuple[float, float, float]:
    """The spacing in mm, or in voxels where it is not known and a rule that needs it was asked for by hand."""
    return case.spacing or (1.0, 1.0, 1.0)


def make_plan(
    planner: str, dataset: RawDataset, fingerprint: Fingerprint, overrides: Mapping[str, str], edited: Mapping[str, Any]
) -> tuple[Plans, tuple[str, ...]]:
    """The plan by the planner of this name (or ``package.module:Class``), and sentences about edited values.

    Raises:
        UsageError: ``E-NAME-01`` no such planner; otherwise as ``ExperimentPlanner.plan``.
    """
    own = PLANNERS.get(planner)(dataset, fingerprint, overrides, edited)
    plans = own.plan()
    return replace(plans, planner=planner), tuple(own.notes)


def require_known(names: tuple[str, ...], overridden: Collection[str]) -> None:
    """Refuse a channel whose name says nothing and for which no rule is among the keys ``overridden``.

    Raises:
        DataError: ``E-CHAN-03``.
    """
    for index, name in enumerate(names):
        if f"intensity.{index}" not in overridden and scheme_of_channel(name) is None:
            raise _unknown_channel(index, name)


def channel_names(dataset: RawDataset) -> tuple[str, ...]:
    """The channel names of a dataset in the order of their numbers."""
    named = dataset.description.channel_names
    return tuple(named[str(index)] for index in range(len(named)))


def _unknown_channel(index: int, name: str) -> DataError:
    return DataError("E-CHAN-03", name=name, index=index, found=f'"{index}": "{name}" in channel_names of dataset.json')


def _shown(value: object) -> str:
    return value.text if isinstance(value, IntensityRule) else str(value)
