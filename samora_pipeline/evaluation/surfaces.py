"""Surface voxels of the organs of a label volume, and the distances between two surfaces.

A surface voxel belongs to the organ while one of its face neighbours (6 in three dimensions) does not; what lies
outside the volume counts as background. This is the surface of medpy with connectivity 1, and of MONAI.
Two other conventions can be asked for by name:

=========  =====================  ==========================  ======================
           surface                HD95                        NSD
=========  =====================  ==========================  ======================
medpy      surface voxels         both directions pooled      share of voxels
monai      surface voxels         larger of both directions   share of voxels
deepmind   marching-cubes pieces  larger of both directions,  share of area
           (surfels)              percentile by area
=========  =====================  ==========================  ======================

A surfel is a marching-cubes piece with its area. A cell lies between 2 x 2 x 2 neighbouring voxels; where these are not
all alike, a piece of the surface passes through it. The piece sits on the cell's corner of the lattice and counts by
its area. What lies outside the volume is background.

N surface voxels, D axes of the volume. A position is a voxel's index in the flattened volume with a margin of one
voxel of background on each side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Labels = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.intp]
Points = npt.NDArray[np.float64]
Distances = npt.NDArray[np.float64]
Codes = npt.NDArray[np.uint8]

# Lattice distances that are equal on paper differ in the last bits; a tie with the tolerance counts as within.
_TIE = 1e-9
# Bit of a cell's code that says whether the voxel at this corner belongs to the organ.
_CORNERS = tuple(product((0, 1), repeat=3))


@dataclass(frozen=True)
class SurfaceDistances:
    """Distance of each surface element to the nearest one of the other mask, in the unit of the spacing.

    ``from_prediction`` has one value per element of the prediction's surface, ``from_reference`` one per element of the
    reference's; neither is empty. Elements are voxels that count alike, or pieces that count by their area
    (``areas``: those of the prediction, those of the reference).
    """

    from_prediction: Distances
    from_reference: Distances
    areas: tuple[Distances, Distances] | None = None

    @property
    def pooled(self) -> Distances:
        """Both directions together."""
        return np.concatenate((self.from_prediction, self.from_reference))

    def hd95(self, *, directed: bool = False) -> float:
        """95th percentile of both directions pooled (the rule of medpy and of the SAMed and H-SAM tables).

        ``directed`` takes the larger of the two directions' own percentiles instead, the rule of MONAI and (by area)
        of DeepMind's surface-distance: another number, far larger where a small organ has a far island.
        """
        if self.areas is not None:
            directions = zip((self.from_prediction, self.from_reference), self.areas, strict=True)
            return max(_area_percentile(*one) for one in directions)
        if directed:
            return float(max(np.percentile(one, 95) for one in (self.from_prediction, self.from_reference)))
        return float(np.percentile(self.pooled, 95))

    def hd(self) -> float:
        """Hausdorff distance: the largest distance of either direction."""
        return float(self.pooled.max())

    def assd(self) -> float:
        """Average symmetric surface distance: the mean of both directions pooled (medpy from 0.5 on, MONAI).

        Earlier medpy releases took the mean of the two directed means. With areas the mean is weighed by them.
        """
        weights = None if self.areas is None else np.concatenate(self.areas)
        return float(np.average(self.pooled, weights=weights))

    def nsd(self, tolerance: float) -> float:
        """Normalized surface distance (surface Dice) at ``tolerance``, in the unit of the spacing; 0 to 1.

        The share of both surfaces, by number of voxels or by area, that lies within the tolerance of the other one.
        """
        within = self.pooled <= tolerance * (1 + _TIE)
        return float(np.average(within, weights=None if self.areas is None else np.concatenate(self.areas)))


@dataclass(frozen=True)
class SurfacePair:
    """Surface voxels of a reference and a prediction on one grid, as positions in ascending order.

    ``shared`` lie on both surfaces, the others on one of them. Each organ has at least one surface voxel in both.
    ``shape`` is that of the volume with its margin; ``transposed`` says that the volume's axes were reversed first.
    """

    shared: Positions
    reference_only: Positions
    prediction_only: Positions
    shape: tuple[int, ...]
    transposed: bool

    def distances(self, spacing: Sequence[float]) -> SurfaceDistances:
        """Return the distances in the unit of ``spacing``: one value per axis of the volume; ones give voxels."""
        scale = np.asarray(spacing[::-1] if self.transposed else spacing, dtype=np.float64)
        shared, reference, prediction = (
            (np.stack(np.unravel_index(positions, self.shape), axis=-1) * scale).astype(np.float64, copy=False)
            for positions in (self.shared, self.reference_only, self.prediction_only)
        )
        on_both = np.zeros(len(shared))
        return SurfaceDistances(
            from_prediction=np.concatenate((on_both, to_nearest(prediction, np.concatenate((shared, reference))))),
            from_reference=np.concatenate((on_both, to_nearest(reference, np.concatenate((shared, prediction))))),
        )


@dataclass(frozen=True)
class Boundary:
    """All foreground voxels of a label volume with a face neighbour of another value.

    The surface of any organ, region or single label, is among them. ``positions`` (N,) ascending, ``labels`` (N,),
    ``neighbours`` (N, 2 D) are the labels across each face.
    """

    positions: Positions
    labels: Labels
    neighbours: Labels
    shape: tuple[int, ...]

    def surface(self, values: Sequence[int]) -> Positions:
        """Return the surface (n,) of the organ that consists of the voxels with these label values."""
        belongs = np.zeros(256, dtype=np.bool_)
        belongs[list(values)] = True
        own = np.flatnonzero(belongs[self.labels])
        exposed = ~belongs[self.neighbours[own]].all(axis=1)
        return self.positions[own[exposed]]


def boundary(labels: Labels) -> Boundary:
    """Find the boundary voxels of a label volume (any number of axes).

    A crop that holds all foreground gives the same distances as the full volume.
    """
    padded = np.ascontiguousarray(np.pad(labels, 1))
    touches = np.zeros(padded.shape, dtype=np.bool_)
    for axis in range(labels.ndim):
        values, marks = np.moveaxis(padded, axis, 0), np.moveaxis(touches, axis, 0)
        step = values[:-1] != values[1:]
        marks[:-1] |= step
        marks[1:] |= step
    positions = np.flatnonzero(touches & (padded > 0))
    flat = padded.ravel()
    strides = [stride // padded.itemsize for stride in padded.strides]
    offsets = np.array([*strides, *(-stride for stride in strides)], dtype=np.intp)
    return Boundary(positions, flat[positions], flat[positions[:, None] + offsets], padded.shape)


def pair_surfaces(
    reference: Boundary, prediction: Boundary, values: Sequence[int], *, transposed: bool = False
) -> SurfacePair | None:
    """Return an organ's surfaces in two volumes of one shape, or None where it is missing from either."""
    of_reference, of_prediction = reference.surface(values), prediction.surface(values)
    if not of_reference.size or not of_prediction.size:
        return None
    common = np.isin(of_reference, of_prediction, assume_unique=True)
    return SurfacePair(
        shared=of_reference[common],
        reference_only=of_reference[~common],
        prediction_only=np.setdiff1d(of_prediction, of_reference, assume_unique=True),
        shape=reference.shape,
        transposed=transposed,
    )


def to_nearest(points: Points, target: Points) -> Distances:
    """Return the distance (n,) of each of the ``points`` (n, D) to the nearest ``target`` (m, D); m is at least 1."""
    if not len(points):
        return np.zeros(0)
    # Points of a lattice tie at every median; splitting at the middle of the cell builds the tree far faster.
    nearest: Distances = cKDTree(target, balanced_tree=False).query(points)[0]
    return nearest


def _area_percentile(distances: Distances, areas: Distances) -> float:
    """The distance at which 95 % of the area is reached, going from near to far."""
    order = np.lexsort((areas, distances))
    reached = np.cumsum(areas[order]) / areas.sum()
    return float(distances[order][min(int(np.searchsorted(reached, 0.95)), len(order) - 1)])


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
