"""Surfaces as marching-cubes pieces with areas: the convention of DeepMind's surface-distance.

A cell lies between 2 x 2 x 2 neighbouring voxels; where these are not all alike, a piece of the surface passes through
it. The piece sits on the cell's corner of the lattice and counts by its area. What lies outside the volume is
background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt

from samora_pipeline.evaluation.surfaces import Distances, Labels, Points, Positions, SurfaceDistances, to_nearest

Codes = npt.NDArray[np.uint8]

# Bit of a cell's code that tells whether the voxel at this corner belongs to the organ.
_CORNERS = tuple(product((0, 1), repeat=3))


@dataclass(frozen=True)
class SurfelPair:
    """The cells (n,) that the surfaces of a reference and a prediction pass through, and their codes (n,).

    ``shape`` is that of the grid of cells; ``transposed`` says that the volume's axes were reversed first.
    """

    reference: tuple[Positions, Codes]
    prediction: tuple[Positions, Codes]
    shape: tuple[int, ...]
    transposed: bool

    def distances(self, spacing: Sequence[float]) -> SurfaceDistances:
        """Return the distances, with areas, in the unit of ``spacing`` (one value per axis of the volume)."""
        scale = tuple(float(step) for step in (spacing[::-1] if self.transposed else spacing))
        area = piece_areas(scale)
        (truth, truth_codes), (guess, guess_codes) = self.reference, self.prediction
        return SurfaceDistances(
            from_prediction=self._to_other(guess, truth, scale),
            from_reference=self._to_other(truth, guess, scale),
            areas=(area[guess_codes], area[truth_codes]),
        )

    def _to_other(self, own: Positions, other: Positions, scale: tuple[float, ...]) -> Distances:
        points, targets = (self._points(one, scale) for one in (own, other))
        apart = ~np.isin(own, other, assume_unique=True)
        distances = np.zeros(len(own))
        distances[apart] = to_nearest(points[apart], targets)
        return distances

    def _points(self, positions: Positions, scale: tuple[float, ...]) -> Points:
        cells = np.stack(np.unravel_index(positions, self.shape), axis=-1).astype(np.float64)
        return cells * np.asarray(scale, dtype=np.float64)


def pair_surfels(
    reference: Labels, prediction: Labels, values: Sequence[int], *, transposed: bool = False
) -> SurfelPair | None:
    """Return an organ's surface cells in two volumes (X, Y, Z), or None where it is missing from either."""
    of_reference, of_prediction = (_cells(np.isin(volume, values)) for volume in (reference, prediction))
    if not of_reference[0].size or not of_prediction[0].size:
        return None
    return SurfelPair(of_reference, of_prediction, tuple(size + 1 for size in reference.shape), transposed)


@lru_cache(maxsize=16)
def piece_areas(spacing: tuple[float, ...]) -> Distances:
    """Return the area (256,) of the marching-cubes surface in a cell of each code, for voxels of this size.

    Marching cubes after Lorensen and Cline (1987). A cell with more than four voxels inside is taken as its complement,
    so that a mask and its inverse have one surface.
    """
    return np.array([_piece_area(min(code, 255 - code, key=int.bit_count), spacing) for code in range(256)])


def _piece_area(code: int, spacing: tuple[float, ...]) -> float:
    from skimage.measure import marching_cubes

    if code in (0, 255):
        return 0.0
    cell = np.array([code >> bit & 1 for bit in range(8)], dtype=np.float64).reshape(2, 2, 2)
    points, faces, _, _ = marching_cubes(cell, 0.5, spacing=spacing, method="lorensen", allow_degenerate=False)
    first, second, third = np.moveaxis(points[faces].astype(np.float64), 1, 0)
    return float(np.linalg.norm(np.cross(second - first, third - first), axis=1).sum() / 2)


def _cells(mask: npt.NDArray[np.bool_]) -> tuple[Positions, Codes]:
    padded = np.pad(mask, 1).view(np.uint8)
    codes = np.zeros(tuple(size + 1 for size in mask.shape), dtype=np.uint8)
    for bit, corner in enumerate(_CORNERS):
        part = tuple(slice(start, start + size) for start, size in zip(corner, codes.shape, strict=True))
        codes |= padded[part] << np.uint8(bit)
    positions = np.flatnonzero((codes > 0) & (codes < 255))
    return positions, codes.ravel()[positions]
