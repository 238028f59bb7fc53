"""Overlap and surfaces of all organs of a volume in one pass.

Label volumes are uint8. An organ is a set of label values (one for an ordinary label, several for a region)
and is measured on the union of their voxels. Voxels whose reference carries the ignore value belong to neither mask
and are not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samora_pipeline.evaluation.surfaces import Labels, SurfacePair, SurfelPair, boundary, pair_surfaces, pair_surfels

Masks = tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]

# Voxels per block of the histogram: small enough that the widened copies stay in the cache.
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of one organ; with an ignore label they add up to the voxels that are not ignored."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n_ref(self) -> int:
        """Voxels of the organ in the reference."""
        return self.tp + self.fn

    @property
    def n_pred(self) -> int:
        """Voxels of the organ in the prediction."""
        return self.tp + self.fp

    @property
    def dice(self) -> float | None:
        """Twice the common voxels over all voxels of both masks; None when both are empty."""
        total = self.n_ref + self.n_pred
        return 2 * self.tp / total if total else None

    @property
    def iou(self) -> float | None:
        """Common voxels over the voxels of the union; None when both are empty."""
        union = self.tp + self.fp + self.fn
        return self.tp / union if union else None


@dataclass(frozen=True)
class Measurement:
    """One organ in one case: voxel counts, and the surfaces unless a mask is empty (``surfels`` where asked for).

    ``volumes`` are the label volumes cropped to their foreground, with the axes in their own order.
    """

    overlap: Overlap
    surfaces: SurfacePair | None
    surfels: SurfelPair | None
    volumes: tuple[Labels, Labels]
    values: tuple[int, ...]

    @property
    def masks(self) -> Masks:
        """The organ in the reference and in the prediction, cropped to the foreground of all organs."""
        reference, prediction = (np.isin(volume, self.values) for volume in self.volumes)
        return reference, prediction


def measure(
    reference: Labels,
    prediction: Labels,
    organs: Sequence[tuple[int, ...]],
    ignore: int | None = None,
    *,
    surfels: bool = False,
) -> list[Measurement]:
    """Measure each organ (a tuple of label values) in two label volumes of one shape, any number of axes.

    ``surfels`` adds the marching-cubes surfaces of the convention ``deepmind``; the volumes then have three axes.

    Raises:
        ValueError: Shapes differ, or a volume is not of type uint8.
    """
    if reference.shape != prediction.shape or reference.dtype != np.uint8 or prediction.dtype != np.uint8:
        found = f"{reference.dtype} {reference.shape} and {prediction.dtype} {prediction.shape}"
        raise ValueError(f"two uint8 label volumes of one shape are needed, not {found}")
    truth, guess = reference, prediction
    # NIfTI arrays arrive with the first axis fastest; seen transposed they are read in the order of memory.
    transposed = truth.flags.f_contiguous and not truth.flags.c_contiguous
    if transposed:
        truth, guess = truth.T, guess.T
    truth, guess = np.ascontiguousarray(truth), np.ascontiguousarray(guess)
    counted = truth.size
    if ignore is not None:
        left_out = truth == ignore
        counted -= int(np.count_nonzero(left_out))
        truth, guess = np.where(left_out, np.uint8(0), truth), np.where(left_out, np.uint8(0), guess)
    box = _foreground_box(truth, guess)
    truth, guess = np.ascontiguousarray(truth[box]), np.ascontiguousarray(guess[box])
    histogram = joint_histogram(truth, guess)
    surfaces = boundary(truth), boundary(guess)
    return [
        Measurement(
            _overlap(histogram, values, counted),
            pair_surfaces(*surfaces, values, transposed=transposed),
            pair_surfels(truth, guess, values, transposed=transposed) if surfels else None,
            (truth.T, guess.T) if transposed else (truth, guess),
            values,
        )
        for values in organs
    ]


def joint_histogram(reference: Labels, prediction: Labels) -> npt.NDArray[np.int64]:
    """Count the voxels of every pair of values: (reference value, prediction value), square."""
    size = int(max(reference.max(initial=0), prediction.max(initial=0))) + 1
    counts = np.zeros(size * size, dtype=np.int64)
    truth, guess = reference.ravel(), prediction.ravel()
    for start in range(0, truth.size, _BLOCK):
        pair = truth[start : start + _BLOCK].astype(np.intp)
        pair *= size
        pair += guess[start : start + _BLOCK]
        counts += np.bincount(pair, minlength=size * size)
    return counts.reshape(size, size)


def _overlap(histogram: npt.NDArray[np.int64], values: tuple[int, ...], counted: int) -> Overlap:
    own = [value for value in values if value < len(histogram)]
    tp = int(histogram[np.ix_(own, own)].sum())
    fp = int(histogram[:, own].sum()) - tp
    fn = int(histogram[own].sum()) - tp
    return Overlap(tp, fp, fn, counted - tp - fp - fn)


def _foreground_box(truth: Labels, guess: Labels) -> tuple[slice, ...]:
    """The smallest box that holds the foreground of both volumes."""
    either = truth | guess
    box = []
    for axis in range(either.ndim):
        filled = np.flatnonzero(either.any(axis=tuple(other for other in range(either.ndim) if other != axis)))
        box.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0))
    return tuple(box)
