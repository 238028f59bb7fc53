"""Volumes in memory: voxels in file order and the grid that says where they lie in the patient.

Shape legend: X, Y, Z raw axes in file order; C channels. Affines map voxel indices to RAS millimetres.
"""

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.stored_case import Affine
from samora_pipeline.errors import DataError

# A twentieth of the finest voxel edge: above the rounding of headers, below any shift that would move a label.
GRID_TOLERANCE = 0.05

_POSITIVE = "RAS"
_NEGATIVE = "LPI"


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a volume lie: ``shape`` (X, Y, Z) and ``affine`` (4 x 4, voxel to RAS mm)."""

    shape: tuple[int, int, int]
    affine: Affine

    @property
    def matrix(self) -> npt.NDArray[np.float64]:
        """The affine as an array [4, 4]."""
        return np.array(self.affine, dtype=np.float64)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Edge lengths of a voxel in mm along the raw axes."""
        x, y, z = np.linalg.norm(self.matrix[:3, :3], axis=0).tolist()
        return (x, y, z)

    @property
    def axes(self) -> str:
        """The anatomical direction in which each raw index grows, e.g. ``LAS`` (nearest directions when oblique)."""
        directions = self.matrix[:3, :3] / np.asarray(self.spacing)
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
        return self.shape == other.shape and self.corner_distance(other) <= tolerance * min(self.spacing)


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


def make_grid(shape: tuple[int, ...], affine: npt.NDArray[np.floating[Any]]) -> Grid:
    """Build a grid from the first three sizes of ``shape`` and an affine [4, 4]."""
    x, y, z = (int(size) for size in shape[:3])
    return Grid((x, y, z), tuple(tuple(float(value) for value in row) for row in affine))


def require_finite(volume: Volume) -> None:
    """Refuse NaN and infinite voxels: one of them poisons a whole slice when it is resized.

    Raises:
        DataError: ``E-IMG-05`` with their number.
    """
    if count := volume.count_nonfinite():
        found = f"{count} of {volume.array.size} voxels in {volume.path}"
        raise DataError("E-IMG-05", path=volume.path, found=found)


def label_array(volume: Volume) -> npt.NDArray[np.uint8]:
    """Return a label volume as uint8 [X, Y, Z]; floats are accepted when all of them are whole numbers.

    Raises:
        DataError: ``E-LABEL-02`` for fractions, values outside 0..255 or a fourth axis.
    """
    array = volume.array
    if array.ndim != 3:
        raise _bad_labels(volume, f"shape {array.shape}", "a single 3-D volume")
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        fractions = array[~(array == np.rint(array))]
        if fractions.size:
            shown = ", ".join(f"{value:g}" for value in np.unique(fractions)[:5])
            raise _bad_labels(volume, f"{fractions.size} voxels such as {shown}", "whole numbers")
    low, high = array.min(), array.max()
    if low < 0 or high > 255:
        raise _bad_labels(volume, f"values from {low:g} to {high:g}", "values from 0 to 255")
    return array.astype(np.uint8)


def _bad_labels(volume: Volume, found: str, expected: str) -> DataError:
    return DataError("E-LABEL-02", path=volume.path, found=f"{found} in {volume.path}", expected=expected)
