"""Volumes in memory: voxels in file order, the grid that says where they lie, their slices in anatomical order.

From a volume to slices and back nothing is resampled.

Shape legend: X, Y, Z raw axes in file order; C channels; S slices; H, W rows and columns in source pixels; S, P, L the
axes of a digest: upwards, to the back, to the left. Affines map voxel indices to RAS millimetres.
"""

import hashlib
import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.plans import SLICE_AXES, SliceAxis
from samora_pipeline.contracts.stored_case import Affine, SliceGeometry
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.intensity import fits_int16

# A twentieth of the finest voxel edge: above the rounding of headers, below any shift that would move a label.
GRID_TOLERANCE = 0.05
# Scaling by a header (0 and 255 times 1/255) leaves rounding of this order in label values.
_WHOLE = 3e-5

_POSITIVE = "RAS"
_NEGATIVE = "LPI"


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie: ``shape`` (X, Y, Z) and ``affine`` (4 x 4, voxel to RAS mm).

    Without ``spacing_known`` the affine tells directions alone: its lengths are voxels, not mm.
    """

    shape: tuple[int, int, int]
    affine: Affine
    spacing_known: bool = True

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """The affine as an array [4, 4]."""
        return np.array(self.affine, dtype=np.float64)

    @property
    def spacing(self) -> tuple[float, float, float] | None:
        """Edge lengths of a voxel in mm along the raw axes; None where nothing states them."""
        return self.steps if self.spacing_known else None

    @property
    def steps(self) -> tuple[float, float, float]:
        """Lengths of the affine's columns: the spacing in mm, or lengths without a unit where it is not known."""
        x, y, z = np.linalg.norm(self.matrix[:3, :3], axis=0).tolist()
        return (x, y, z)

    @property
    def axes(self) -> str:
        """The anatomical direction in which each raw index grows, e.g. ``LAS`` (nearest directions when oblique)."""
        directions = self.matrix[:3, :3] / np.asarray(self.steps)
        # The best of the six assignments, not the largest entry per column: two columns may point to one direction.
        world = max(itertools.permutations(range(3)), key=lambda order: sum(abs(directions[order, (0, 1, 2)])))
        return "".join(
            (_POSITIVE if directions[direction, axis] >= 0 else _NEGATIVE)[direction]
            for axis, direction in enumerate(world)
        )

    def corner_distance(self, other: Self) -> float:
        """The largest distance in mm between corresponding corner voxels of two grids of equal shape."""
        corners = np.array([(*corner, 1) for corner in itertools.product(*((0, size - 1) for size in self.shape))])
        return float(np.linalg.norm((corners @ (self.matrix - other.matrix).T)[:, :3], axis=1).max())

    def matches(self, other: Self, tolerance: float = GRID_TOLERANCE) -> bool:
        """Whether shapes are equal and no corner is off by more than ``tolerance`` times the finest voxel edge."""
        return self.shape == other.shape and self.corner_distance(other) <= tolerance * min(self.steps)


@dataclass(frozen=True)
class Volume:
    """A volume that was read: ``array`` [X, Y, Z] or [X, Y, Z, C] in file order and in its source dtype.

    ``header`` is the reader's own header object, kept so that a label map can be written with the same one.
    ``warnings`` are sentences about a doubtful header (two affines that disagree, no orientation at all).
    """

    array: npt.NDArray[Any]
    grid: Grid
    path: Path
    header: Any = field(default=None, repr=False)
    warnings: tuple[str, ...] = ()

    def count_nonfinite(self) -> int:
        """Number of voxels that are NaN or infinite."""
        if self.array.dtype.kind != "f":
            return 0
        return int(self.array.size - np.count_nonzero(np.isfinite(self.array)))


def make_grid(shape: tuple[int, ...], affine: npt.NDArray[np.floating[Any]], spacing_known: bool = True) -> Grid:
    """Build a grid from the first three sizes of ``shape`` and an affine [4, 4]."""
    x, y, z = (int(size) for size in shape[:3])
    return Grid((x, y, z), tuple(tuple(float(value) for value in row) for row in affine), spacing_known)


def require_finite(volume: Volume) -> None:
    """Refuse NaN and infinite voxels: one of them poisons a whole slice when it is resized.

    Raises:
        DataError: ``E-IMG-05`` with their number.
    """
    if count := volume.count_nonfinite():
        found = f"{count} of {volume.array.size} voxels in {volume.path}"
        raise DataError("E-IMG-05", path=volume.path, found=found)


def label_array(volume: Volume) -> npt.NDArray[np.uint8]:
    """Return a label volume as uint8 [X, Y, Z]; floats are accepted when all are whole numbers within rounding.

    Raises:
        DataError: ``E-LABEL-02`` for fractions, values outside 0..255 or a fourth axis.
    """
    array = volume.array
    if array.ndim != 3:
        raise _bad_labels(volume, f"shape {array.shape}", "a single 3-D volume")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        whole = np.rint(array)
        fractions = array[~(np.abs(array - whole) <= _WHOLE)]
        if fractions.size:
            shown = ", ".join(f"{value:g}" for value in np.unique(fractions)[:5])
            raise _bad_labels(volume, f"{fractions.size} voxels such as {shown}", "whole numbers")
        array = whole
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        raise _bad_labels(volume, f"values from {low:g} to {high:g}", "values from 0 to 255")
    return array.astype(np.uint8)


def _bad_labels(volume: Volume, found: str, expected: str) -> DataError:
    return DataError("E-LABEL-02", path=volume.path, found=f"{found} in {volume.path}", expected=expected)


OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
"""of each anatomical direction"""

Scalar = TypeVar("Scalar", bound=np.generic)


def slice_order(axes: str, axis: SliceAxis) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """The permutation and flips that bring raw axes (codes such as ``LAS``) into (slice, row, column) of ``axis``."""
    permutation, flips = [], []
    for direction in SLICE_AXES[axis]:
        flipped = direction not in axes
        permutation.append(axes.index(OPPOSITE[direction] if flipped else direction))
        flips.append(flipped)
    return (permutation[0], permutation[1], permutation[2]), (flips[0], flips[1], flips[2])


def slice_geometry(grid: Grid, axis: SliceAxis) -> SliceGeometry:
    """The way between a raw grid and the slices of ``axis``."""
    permutation, flips = slice_order(grid.axes, axis)
    first, second, third = permutation
    steps = grid.steps
    return SliceGeometry(grid.shape, grid.affine, permutation, flips, (steps[first], steps[second], steps[third]))


def to_slices(volumes: tuple[Volume, ...], axis: SliceAxis) -> tuple[npt.NDArray[Any], SliceGeometry]:
    """Turn the channels of a case into slices [S, C, H, W]: int16 where that is exact, else float32.

    They may share their memory with the volume.

    Raises:
        DataError: ``E-GEO-01``, ``E-GEO-02`` when the channels do not lie on one grid.
    """
    volumes = (volumes[0], *(on_grid_of(volumes[0], other) for other in volumes[1:]))
    geometry = slice_geometry(volumes[0].grid, axis)
    dtype = np.int16 if all(fits_int16(volume.array) for volume in volumes) else np.float32
    permuted = [_permute(volume.array, geometry) for volume in volumes]
    if len(permuted) == 1 and permuted[0].dtype == dtype:
        # The voxels as they lie: a scan of thousands of slices is not held twice.
        return permuted[0][:, None], geometry
    slices = np.empty((permuted[0].shape[0], len(volumes), *permuted[0].shape[1:]), dtype=dtype)
    for channel, array in enumerate(permuted):
        slices[:, channel] = array
    return slices, geometry


def labels_to_slices(volume: Volume, geometry: SliceGeometry) -> npt.NDArray[np.uint8]:
    """Turn a label volume into slices [S, H, W] uint8 with the geometry of its image.

    They may share their memory with the volume.

    Raises:
        DataError: ``E-LABEL-02`` for values that are not whole numbers in 0..255.
    """
    return _permute(label_array(volume), geometry)


def to_raw_grid(stack: npt.NDArray[Scalar], geometry: SliceGeometry) -> npt.NDArray[Scalar]:
    """Turn slices [..., S, H, W] back into the raw order [..., X, Y, Z]; the exact inverse of the functions above."""
    leading = stack.ndim - 3
    reversed_axes = tuple(leading + i for i, flipped in enumerate(geometry.flips) if flipped)
    inverse = tuple(leading + geometry.permutation.index(axis) for axis in range(3))
    return np.ascontiguousarray(np.flip(stack, reversed_axes).transpose(*range(leading), *inverse))


def on_grid_of(first: Volume, other: Volume) -> Volume:
    """``other`` on the grid of ``first``; voxels in another order of axes are brought into that of ``first``.

    Where a voxel lies is said by both headers, so permuting and flipping axes changes no place; nothing is resampled.

    Raises:
        DataError: ``E-GEO-01`` other shape, ``E-GEO-02`` other affine, with both values and the tolerance.
    """
    if first.grid.matches(other.grid):
        return other
    if first.grid.axes != other.grid.axes:
        turned = reoriented(other, first.grid.axes)
        if first.grid.matches(turned.grid):
            return turned
    if first.grid.shape != other.grid.shape:
        found = f"{_shown(other.grid.shape)} in {other.path}"
        expected = f"{_shown(first.grid.shape)} as in {first.path}"
        raise DataError("E-GEO-01", other=other.path, first=first.path, found=found, expected=expected)
    found = f"{_where(other.grid)}; corners are off by {first.grid.corner_distance(other.grid):.3g} mm"
    expected = f"{_where(first.grid)} within {GRID_TOLERANCE:g} of a voxel"
    raise DataError("E-GEO-02", other=other.path, first=first.path, found=found, expected=expected)


def reoriented(volume: Volume, axes: str) -> Volume:
    """The volume with its axes growing to ``axes``, such as ``RAS``."""
    own = volume.grid.axes
    order = [next(place for place, code in enumerate(own) if code in (axis, OPPOSITE[axis])) for axis in axes]
    flips = tuple(place for place, axis in enumerate(axes) if axis not in own)
    affine = volume.grid.matrix[:, [*order, 3]]
    shape = [volume.grid.shape[axis] for axis in order]
    for place in flips:
        affine[:, 3] += affine[:, place] * (shape[place] - 1)
        affine[:, place] *= -1
    array = np.flip(volume.array.transpose(*order, *range(3, volume.array.ndim)), flips)
    return replace(volume, array=array, grid=make_grid(array.shape, affine, volume.grid.spacing_known), header=None)


def _where(grid: Grid) -> str:
    spacing = ", ".join(f"{value:.4g}" for value in grid.steps)
    origin = ", ".join(f"{value:.5g}" for value in grid.matrix[:3, 3])
    return f"spacing ({spacing}) {'mm' if grid.spacing_known else 'unknown'}, origin ({origin}), axes {grid.axes}"


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _permute(array: npt.NDArray[Scalar], geometry: SliceGeometry) -> npt.NDArray[Scalar]:
    return np.flip(array.transpose(geometry.permutation), tuple(i for i, flip in enumerate(geometry.flips) if flip))


def digest_voxels(volume: Volume) -> str:
    """Return the SHA-256 of the canonical voxel array of a volume [X, Y, Z].

    Canonical means: axes brought into the order [S, P, L] by permuting and flipping alone (the nearest anatomical
    directions when oblique), int16 where that is exact and float32 otherwise. So one scan has one digest whether it is
    stored as NIfTI, NRRD or MetaImage, compressed or not, in any orientation that its header states. Spacing and
    position do not count. A scan that was resampled, cropped, clipped, or that has a wrong orientation in its header,
    has another digest: equal digests prove that two scans are the same, other digests prove nothing.
    """
    stack = _permute(volume.array, slice_geometry(volume.grid, "axial"))
    dtype = np.dtype("<i2" if fits_int16(volume.array) else "<f4")
    digest = hashlib.sha256(f"{dtype.str}{stack.shape}".encode())
    for plane in stack:
        values = plane.astype(dtype)
        if dtype.kind == "f":
            # Minus zero is zero: readers differ in the sign that they keep.
            values += 0.0
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
