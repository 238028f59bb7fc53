"""From a raw volume to a stack of slices in anatomical order, and exactly back. Nothing is resampled here.

Shape legend: X, Y, Z raw axes; S slices; C channels; H, W rows and columns in source pixels.
"""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.plans import SLICE_AXES, SliceAxis
from samora_pipeline.contracts.stored_case import SliceGeometry
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.intensity import fits_int16
from samora_pipeline.imaging.volume import GRID_TOLERANCE, Grid, Volume, label_array

_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}

Scalar = TypeVar("Scalar", bound=np.generic)


def slice_order(axes: str, axis: SliceAxis) -> tuple[tuple[int, int, int], tuple[bool, bool, bool]]:
    """The permutation and flips that bring raw axes (codes such as ``LAS``) into (slice, row, column) of ``axis``."""
    permutation, flips = [], []
    for direction in SLICE_AXES[axis]:
        flipped = direction not in axes
        permutation.append(axes.index(_OPPOSITE[direction] if flipped else direction))
        flips.append(flipped)
    return (permutation[0], permutation[1], permutation[2]), (flips[0], flips[1], flips[2])


def slice_geometry(grid: Grid, axis: SliceAxis) -> SliceGeometry:
    """The way between a raw grid and the slices of ``axis``."""
    permutation, flips = slice_order(grid.axes, axis)
    first, second, third = permutation
    spacing = grid.spacing
    return SliceGeometry(
        raw_shape=grid.shape,
        raw_affine=grid.affine,
        permutation=permutation,
        flips=flips,
        spacing=(spacing[first], spacing[second], spacing[third]),
    )


def to_slices(volumes: tuple[Volume, ...], axis: SliceAxis) -> tuple[npt.NDArray[Any], SliceGeometry]:
    """Turn the channels of a case into slices [S, C, H, W]: int16 where that is exact, else float32.

    Raises:
        DataError: ``E-GEO-01`` when the channels do not lie on one grid.
    """
    for other in volumes[1:]:
        require_same_grid(volumes[0], other)
    geometry = slice_geometry(volumes[0].grid, axis)
    dtype = np.int16 if all(fits_int16(volume.array) for volume in volumes) else np.float32
    permuted = [_permute(volume.array, geometry) for volume in volumes]
    slices = np.empty((permuted[0].shape[0], len(volumes), *permuted[0].shape[1:]), dtype=dtype)
    for channel, array in enumerate(permuted):
        slices[:, channel] = array
    return slices, geometry


def labels_to_slices(volume: Volume, geometry: SliceGeometry) -> npt.NDArray[np.uint8]:
    """Turn a label volume into slices [S, H, W] uint8 with the geometry of its image.

    Raises:
        DataError: ``E-LABEL-02`` for values that are not whole numbers in 0..255.
    """
    return np.ascontiguousarray(_permute(label_array(volume), geometry))


def to_raw_grid(stack: npt.NDArray[Scalar], geometry: SliceGeometry) -> npt.NDArray[Scalar]:
    """Turn slices [..., S, H, W] back into the raw order [..., X, Y, Z]; the exact inverse of the functions above."""
    leading = stack.ndim - 3
    reversed_axes = tuple(leading + i for i, flipped in enumerate(geometry.flips) if flipped)
    inverse = tuple(leading + geometry.permutation.index(axis) for axis in range(3))
    return np.ascontiguousarray(np.flip(stack, reversed_axes).transpose(*range(leading), *inverse))


def require_same_grid(first: Volume, other: Volume) -> None:
    """Refuse two volumes of a case that do not lie on the same grid.

    Raises:
        DataError: ``E-GEO-01`` other shape, ``E-GEO-02`` other affine, with both values and the tolerance.
    """
    if first.grid.shape != other.grid.shape:
        raise DataError(
            "E-GEO-01",
            other=other.path,
            first=first.path,
            found=f"{_shown(other.grid.shape)} in {other.path}",
            expected=f"{_shown(first.grid.shape)} as in {first.path}",
        )
    if not first.grid.matches(other.grid):
        raise DataError(
            "E-GEO-02",
            other=other.path,
            first=first.path,
            expected=f"{_where(first.grid)} within {GRID_TOLERANCE:g} of a voxel",
            found=f"{_where(other.grid)}; corners are off by {first.grid.corner_distance(other.grid):.3g} mm",
        )


def _where(grid: Grid) -> str:
    spacing = ", ".join(f"{value:.4g}" for value in grid.spacing)
    origin = ", ".join(f"{value:.5g}" for value in grid.matrix[:3, 3])
    return f"spacing ({spacing}) mm, origin ({origin}), axes {grid.axes}"


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)


def _permute(array: npt.NDArray[Scalar], geometry: SliceGeometry) -> npt.NDArray[Scalar]:
    return np.flip(array.transpose(geometry.permutation), tuple(i for i, flip in enumerate(geometry.flips) if flip))
