"""Grey pictures of random overlapping shapes, and where each shape is: the training data of the packaged tiny base.

Nothing anatomical is drawn on purpose: the base must not have seen the phantom it is demonstrated on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class ShapePicture:
    """``image`` (N,N) in [0,1] and ``regions`` (N,N): the number of the shape that is visible at each pixel, 0 none."""

    image: FloatArray
    regions: npt.NDArray[np.uint8]


def draw_picture(rng: np.random.Generator, size: int) -> ShapePicture:
    """Draw one picture: a large ground shape, 5 to 16 shapes painted over each other, texture, blur and noise."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, size, dtype=np.float32),) * 2, indexing="ij")
    image = np.full((size, size), rng.uniform(0, 0.3), np.float32)
    regions = np.zeros((size, size), np.uint8)
    shapes = [_blob(rng, rows, columns, rng.uniform(0.6, 1.1), rng.uniform(-0.1, 0.1, 2))]
    for _ in range(rng.integers(5, 17)):
        kind = (_blob, _tube, _ring)[rng.choice(3, p=[0.65, 0.2, 0.15])]
        shapes.append(kind(rng, rows, columns, rng.uniform(0.06, 0.4), rng.uniform(-0.75, 0.75, 2)))
    for number, mask in enumerate(shapes, start=1):
        image[mask] = rng.uniform(0, 1) + rng.uniform(0, 0.08) * _smooth_noise(rng, size, rng.uniform(1, 6))[mask]
        regions[mask] = number
    image = ndimage.gaussian_filter(image, rng.uniform(0.3, 1.0))
    grain = rng.uniform(0.0, 0.09) * _smooth_noise(rng, size, rng.uniform(0.3, 1.2))
    shading = rng.uniform(0, 0.08) * _smooth_noise(rng, size, size / 5)
    return ShapePicture(np.clip(image + grain + shading, 0, 1).astype(np.float32), regions)


def _blob(
    rng: np.random.Generator, rows: FloatArray, columns: FloatArray, radius: float, centre: FloatArray
) -> npt.NDArray[np.bool_]:
    """A rotated ellipse whose radius wobbles with the angle."""
    turn, aspect = rng.uniform(0, np.pi), rng.uniform(0.4, 1.0)
    y, x = rows - centre[0], columns - centre[1]
    along, across = np.cos(turn) * x + np.sin(turn) * y, (np.cos(turn) * y - np.sin(turn) * x) / aspect
    angle = np.arctan2(across, along)
    wobble = sum(
        rng.uniform(0, 0.3 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) for order in range(2, 6)
    )
    mask: npt.NDArray[np.bool_] = np.hypot(along, across) < radius * (1 + wobble)
    return mask


def _tube(
    rng: np.random.Generator, rows: FloatArray, columns: FloatArray, radius: float, centre: FloatArray
) -> npt.NDArray[np.bool_]:
    """A band of constant width along a quadratic curve."""
    ends = centre[:, None] + rng.uniform(-0.7, 0.7, (2, 3))
    t = np.linspace(0, 1, 40, dtype=np.float32)
    curve = (1 - t) ** 2 * ends[:, :1] + 2 * t * (1 - t) * ends[:, 1:2] + t**2 * ends[:, 2:]
    distance = np.min([np.hypot(rows - y, columns - x) for y, x in curve.T], axis=0)
    mask: npt.NDArray[np.bool_] = distance < max(0.05, radius / 3)
    return mask


def _ring(
    rng: np.random.Generator, rows: FloatArray, columns: FloatArray, radius: float, centre: FloatArray
) -> npt.NDArray[np.bool_]:
    """A blob with its middle taken out."""
    distance = np.hypot((rows - centre[0]) / rng.uniform(0.6, 1.0), columns - centre[1])
    mask: npt.NDArray[np.bool_] = np.abs(distance - radius) < max(0.04, radius * rng.uniform(0.15, 0.35))
    return mask


def _smooth_noise(rng: np.random.Generator, size: int, sigma: float) -> FloatArray:
    """Gaussian noise of unit spread, correlated over ``sigma`` pixels."""
    noise = ndimage.gaussian_filter(rng.standard_normal((size, size)).astype(np.float32), sigma)
    scaled: FloatArray = noise / max(float(noise.std()), 1e-6)
    return scaled
