"""The geometry of labelled slices in the public codes of SAMed and H-SAM, as coordinates of one interpolation.

Both draw one of several kinds for a slice, where appendix A.3 composes them all. Their codes interpolate rotated images
by the nearest pixel and crops by splines; here all is bicubic, labels nearest (H-SAM's elastic labels are interpolated
there and cut to whole numbers). SAMed's workers repeat their first draws in every epoch, which is not repeated.

Shapes: ``where`` (2,n,n), for points of the result where they come from: (row, column) as shares of the side, -0.5 to
0.5 across the slice. Numbers are drawn uniformly from [0, 1).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from batchgenerators.augmentations.utils import elastic_deform_coordinates, rotate_coords_2d
from numpy.typing import NDArray

from samora_pipeline.contracts.random_steps import AugmentationSettings

Floats = NDArray[np.floating[Any]]

_AFFINE = 0.08
"""how far H-SAM moves each of three points that fix an affine map, as a share of the side"""
_POINTS = np.array([[1, 1], [1, -1], [-1, -1]]) / 3


def samed_geometry(
    where: Floats, numbers: Sequence[float], settings: AugmentationSettings, flips: tuple[bool, bool]
) -> Floats:
    """Half of the slices: quarter turns and a flip along one axis; a quarter: rotation by whole degrees, -20 to 19.

    Flips are left out where the plan forbids them.
    """
    kind, second, turns, axis, angle = numbers
    if kind < 0.5:
        for _ in range(int(4 * turns)):
            where = np.stack((where[1], -where[0]))
        flipped = int(2 * axis)
        if flips[flipped]:
            where[flipped] *= -1
        return where
    return _rotated(where, angle) if second < 0.5 else where


def hsam_geometry(
    where: Floats, numbers: Sequence[float], settings: AugmentationSettings, flips: tuple[bool, bool]
) -> Floats:
    """45 % rotation as SAMed's; of the rest 75 % a crop of 0.2 to 0.8 of the side; of what is left 85 % elastic.

    Elastic: an affine map that moves three points by up to 0.08 of the side, and displacements of ``elastic_size`` and
    ``elastic_smoothness``, which are H-SAM's at 224 pixels; beyond its border the slice is mirrored.
    """
    rotation, crop, elastic, angle, ratio = numbers
    if rotation < 0.45:
        return _rotated(where, angle)
    if crop < 0.75:
        side = 0.2 + 0.6 * ratio
        return where * side + ((1 - side) * (np.random.random(2) - 0.5))[:, None, None]
    return _elastic(where, settings) if elastic < 0.85 else where


def displacement_strength(settings: AugmentationSettings, sigma: float) -> float:
    """The factor on smoothed noise that gives displacements of ``elastic_size``.

    Uniform noise in (-1, 1) has variance 1/3, and a 2-D Gaussian divides its deviation by 2 sqrt(pi) sigma.
    """
    return settings.elastic_size * 2 * math.sqrt(3 * math.pi) * sigma


def _rotated(where: Floats, number: float) -> Floats:
    rotated: Floats = rotate_coords_2d(where, math.radians(math.floor(40 * number) - 20))
    return rotated


def _elastic(where: Floats, settings: AugmentationSettings) -> Floats:
    moved = _POINTS + np.random.uniform(-_AFFINE, _AFFINE, (3, 2))
    # From the result to the source: the map that takes the moved points to where they were.
    back = np.linalg.solve(np.column_stack((moved, np.ones(3))), _POINTS)
    sigma = settings.elastic_smoothness * where.shape[-1]
    where = elastic_deform_coordinates(where, displacement_strength(settings, sigma), sigma)
    where = np.einsum("io,ihw->ohw", back[:2], where) + back[2][:, None, None]
    return np.where(np.abs(where) > 0.5, np.sign(where) - where, where)
