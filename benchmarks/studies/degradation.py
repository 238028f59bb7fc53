"""Worse scans from good ones: noise, blur and lower resolution in five levels each.

The paper names noisy and low-quality images as a limitation (appendix B.6) and measures nothing; kinds and levels are
ours.

Shapes: volumes [X, Y, Z] of intensities in source units.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Kind = Literal["noise", "blur", "downsampling"]
KINDS: tuple[Kind, ...] = get_args(Kind)

STRENGTHS: dict[Kind, tuple[float, ...]] = {
    # Standard deviation of Gaussian noise, as a share of the range between the 0.5 and 99.5 percentiles.
    "noise": (0.02, 0.05, 0.1, 0.2, 0.3),
    # Standard deviation of a Gaussian in mm, along all three axes.
    "blur": (0.5, 1.0, 1.5, 2.0, 3.0),
    # Pixels of a slice that are averaged to one, along rows and columns; linear interpolation leads back.
    "downsampling": (2, 3, 4, 6, 8),
}
LEVELS = (1, 2, 3, 4, 5)

Array = npt.NDArray[Any]


def degrade(
    array: Array, kind: Kind, level: int, *, spacing: tuple[float, ...], plane: tuple[int, int], seed: int
) -> Array:
    """Return a degraded copy in the type of ``array``; whole numbers are rounded and stay in the range of the type.

    ``spacing`` is in mm, ``plane`` names the two axes of a slice, ``seed`` determines the noise.
    """
    strength = STRENGTHS[kind][level - 1]
    values = array.astype(np.float64)
    if kind == "noise":
        low, high = np.percentile(values, [0.5, 99.5])
        values = values + np.random.default_rng(seed).normal(0.0, strength * (high - low), values.shape)
    elif kind == "blur":
        values = ndimage.gaussian_filter(values, [strength / size for size in spacing], mode="nearest")
    else:
        values = _lower_resolution(values, int(strength), plane)
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return values.astype(array.dtype)


def _lower_resolution(values: npt.NDArray[np.float64], factor: int, plane: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Average blocks of ``factor`` x ``factor`` pixels, then interpolate linearly between their centres."""
    for axis in plane:
        size = values.shape[axis]
        padding = [(0, -size % factor if other == axis else 0) for other in range(values.ndim)]
        moved = np.moveaxis(np.pad(values, padding, mode="edge"), axis, -1)
        coarse = moved.reshape(*moved.shape[:-1], -1, factor).mean(axis=-1)
        zoom = [1.0] * (values.ndim - 1) + [float(factor)]
        fine = ndimage.zoom(coarse, zoom, order=1, mode="nearest", grid_mode=True)
        values = np.moveaxis(fine[..., :size], -1, axis)
    return values
