"""Decides the plan from the fingerprint. One small method per decision, so that a new rule is one subclass.

Each value carries a sentence with the numbers it came from. ``--set key=value`` overrides any of them, and the
sentence then says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, TypeVar, get_args

from planners.intensity_names import is_colour, require_known, scheme_of
from planners.laterality import opposite_pairs
from planners.overrides import (
    SET_MARK,
    check_keys,
    one_of,
    read_count,
    read_flag,
    read_rule,
    read_size,
    read_spacing,
    ruled_channels,
    unusable,
)
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
)
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_json
from samora_pipeline.imaging.preprocessor import slice_order

T = TypeVar("T")


class ExperimentPlanner:
    """Plans a dataset. Subclass it and replace the method of the decision that should be taken differently.

    ``overrides`` are the ``--set`` values by key. Nothing is decided from the cases of a published test set.
    """

    ANISOTROPY: ClassVar[float] = 1.5
    """An axis this much coarser than both others is the one that slices are taken across."""
    FIELD_OF_VIEW_RATIO: ClassVar[float] = 2.0
    """Largest over smallest field of view up to which resizing is kept (published Synapse scans differ by 1.8)."""
    INPUT_SIZE: ClassVar[int] = 224
    """Table 8."""
    MEMORY_GIB: ClassVar[float] = 16.0
    FIXED_GIB: ClassVar[float] = 2.0
    SLICE_GIB: ClassVar[float] = 0.75
    """Activations of one slice of 224 x 224 in ViT-B with four branches, trained in 32-bit floats (estimate)."""
    LARGEST_BATCH: ClassVar[int] = 32
    """The effective batch of Table 8; the trainer accumulates up to it."""

    def __init__(self, dataset: RawDataset, fingerprint: Fingerprint, overrides: Mapping[str, str]) -> None:
        self.dataset = dataset
        self.fingerprint = fingerprint
        self.overrides = overrides
        self.channel_names = channel_names(dataset)
        check_keys(overrides, len(self.channel_names))
        split = dataset.ours.published_split
        scored = frozenset(split.test if split else ())
        usable = {name: case for name, case in fingerprint.cases.items() if name not in scored}
        training = [case for case in usable.values() if case.subset == "train"]
        self.cases = training or list(usable.values()) or list(fingerprint.cases.values())

    def plan(self) -> Plans:
        """Return the whole plan.

        Raises:
            DataError: ``E-CHAN-03`` for a channel name that says nothing, ``E-SPLIT-09`` for a slice axis that a
                published list of slices was not counted along.
            UsageError: ``E-SET-01`` unknown key, ``E-SET-02`` unusable value.
        """
        axis = self._settled_axis()
        input_size = self._settle("input_size", read_size, self.input_size)
        slice_size = self._settle("slice_size", read_size, lambda: self.slice_size(input_size.value))
        in_plane = self._settle("in_plane", one_of(InPlaneRule), lambda: self.in_plane(axis.value))
        if in_plane.value == "resize" and "in_plane_spacing" in self.overrides:
            given = self.overrides["in_plane_spacing"]
            raise unusable(
                "in_plane_spacing", given, "--set in_plane=resample_and_pad with it: resizing has no spacing"
            )
        return Plans(
            dataset=self.fingerprint.dataset,
            channel_names=self.channel_names,
            slice_axis=axis,
            in_plane=in_plane,
            in_plane_spacing=self._settle(
                "in_plane_spacing",
                read_spacing,
                lambda: self.in_plane_spacing(in_plane.value, axis.value, slice_size.value),
            ),
            slice_size=slice_size,
            input_size=input_size,
            channels=self.channels(),
            intensity=self._intensities(),
            batch_size=self._settle("batch_size", read_count, lambda: self.batch_size(input_size.value)),
            mirror=self._settle("mirror", read_flag, self.mirror),
            fingerprint_digest=digest_json(to_plain(self.fingerprint)),
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

    def slice_size(self, input_size: int) -> Planned[int]:
        """The size of a slice before it meets the network."""
        return Planned(input_size, "the network's input size, so that a slice is resized once")

    def input_size(self) -> Planned[int]:
        """The size of the network's input."""
        return Planned(self.INPUT_SIZE, "the published setting (Table 8)")

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
        scheme = scheme_of(name)
        if scheme == "percentiles":
            why = f"{name}: no units, so each volume's own 0.5 and 99.5 percentiles"
            return Planned(IntensityRule("percentiles"), why)
        if scheme == "range":
            return Planned(IntensityRule("range"), f"{name}: each volume's own minimum and maximum")
        if is_colour(name):
            return Planned(IntensityRule("window", 0.0, 255.0), f"{name}: colours from 0 to 255")
        return self._hounsfield_window(index, name)

    def batch_size(self, input_size: int) -> Planned[int]:
        """The micro-batch for a device of ``MEMORY_GIB``: what is left beside weights, over the need of a slice."""
        need = self.SLICE_GIB * (input_size / 224) ** 2
        fits = max(1, int((self.MEMORY_GIB - self.FIXED_GIB) / need))
        value = 1
        while value * 2 <= min(fits, self.LARGEST_BATCH):
            value *= 2
        return Planned(
            value,
            f"({self.MEMORY_GIB:g} - {self.FIXED_GIB:g}) GiB / {need:.2f} GiB per slice of {input_size} x {input_size} "
            f"= {fits}, as a power of two of at most {self.LARGEST_BATCH}",
        )

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

    def _hounsfield_window(self, index: int, name: str) -> Planned[IntensityRule]:
        window = self.dataset.ours.window
        if window is not None:
            return Planned(IntensityRule("window", *window), f"{name}: the published window (samora.json)")
        pooled = self.fingerprint.foreground[index] if index < len(self.fingerprint.foreground) else None
        if pooled is not None:
            rule = IntensityRule("window", pooled.percentile_00_5, pooled.percentile_99_5)
            shown = f"{rule.low:g} and {rule.high:g} are the 0.5 and 99.5 percentiles of the foreground"
            return Planned(rule, f"{name}: {shown} in {len(self.cases)} training cases")
        low = statistics.median(case.volume[index].percentile_00_5 for case in self.cases)
        high = statistics.median(case.volume[index].percentile_99_5 for case in self.cases)
        why = f"{name}: no labels, so the median 0.5 and 99.5 percentiles of {len(self.cases)} whole volumes"
        return Planned(IntensityRule("window", low, high), why)

    def _intensities(self) -> Planned[tuple[IntensityRule, ...]]:
        require_known(self.channel_names, ruled_channels(self.overrides))
        planned = [
            self._settle(f"intensity.{index}", read_rule, partial(self.intensity, index, name))
            for index, name in enumerate(self.channel_names)
        ]
        return Planned(tuple(rule.value for rule in planned), "; ".join(rule.why for rule in planned))

    def _settled_axis(self) -> Planned[SliceAxis]:
        """The slice axis; a published list of slices, counted as scans were taken, stands on no other."""
        axis = self._settle("slice_axis", one_of(SliceAxis), self.slice_axis)
        counted = self.slice_axis().value
        lists = [name for name, budget in self.dataset.ours.budgets.items() if budget.slices]
        if lists and axis.value != counted:
            raise DataError(
                "E-SPLIT-09",
                f"the published slices of {', '.join(lists)} were not counted along this axis",
                found=f"--set slice_axis={axis.value}",
                expected=f"{counted} slices",
                fix="leave slice_axis out, or take these lists out of budgets in samora.json",
            )
        return axis

    def _settle(self, key: str, read: Callable[[str, str], T], decide: Callable[[], Planned[T]]) -> Planned[T]:
        if key in self.overrides:
            return Planned(read(key, self.overrides[key]), f"{SET_MARK} {key}={self.overrides[key]}")
        return decide()

    def _spacing(self, case: CaseFingerprint, axis: SliceAxis) -> tuple[float, float, float]:
        order, _ = slice_order(case.axes, axis)
        return case.spacing[order[0]], case.spacing[order[1]], case.spacing[order[2]]

    def _field_of_view(self, case: CaseFingerprint, axis: SliceAxis) -> tuple[float, float]:
        (_, row, column), _ = slice_order(case.axes, axis)
        return case.shape[row] * case.spacing[row], case.shape[column] * case.spacing[column]


def channel_names(dataset: RawDataset) -> tuple[str, ...]:
    """The channel names of a dataset in the order of their numbers."""
    named = dataset.description.channel_names
    return tuple(named[str(index)] for index in range(len(named)))
