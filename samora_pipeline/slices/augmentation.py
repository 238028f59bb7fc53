"""Augmentation of labelled slices (SAMora, appendix A.3): batchgenerators' geometry, one interpolation.

Parameters are drawn first, then applied. batchgenerators draws from NumPy's global generator; ``numpy_seeded`` seeds
that per sample and puts its state back, so a slice's augmentation depends on (seed, epoch, slice) alone. All geometry
is composed on a coarse grid, where it is cheap, and applied to a batch on its device.

Shapes: B batch, C channels, N pixels along a side, n points along a side of the coarse grid.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from batchgenerators.augmentations.utils import (
    create_zero_centered_coordinate_mesh,
    elastic_deform_coordinates,
    rotate_coords_2d,
    scale_coords,
)
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.random_steps import AugmentationSettings
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.slices.intensities import IntensityParameters, apply_intensities, draw_intensities
from samora_pipeline.slices.released import displacement_strength, hsam_geometry, samed_geometry
from samora_pipeline.slices.views import between
from samora_pipeline.transfers import to_device

Floats = NDArray[np.floating]
_GLOBAL_GENERATOR = threading.RLock()
_STEP = 4
"""Pixels between the points of the coarse grid. Linear interpolation between them is exact for rotation, scale and
flips, and within a few hundredths of a pixel for the smooth elastic deformation."""


class AugmentationParameters(NamedTuple):
    """What was drawn for B slices.

    ``coordinates`` (B,2,n,n): for points spread evenly over the result, corners included, where they come from: (row,
    column) as shares of the side, -0.5 to 0.5 across the slice.
    """

    coordinates: Tensor
    intensities: IntensityParameters


def allowed_flips(plans: Plans) -> tuple[bool, bool]:
    """Whether the (rows, columns) of a slice may be reversed: both, or neither where the plan forbids mirroring.

    There is nothing between: a slice that is upside down is a mirror image as well, whose organs have changed sides.
    """
    return plans.mirror.value, plans.mirror.value


@contextmanager
def numpy_seeded(*parts: int | str) -> Iterator[None]:
    """Seed NumPy's global generator from ``parts``; afterwards it is as it was before.

    Threads take turns, because they share that generator.
    """
    with _GLOBAL_GENERATOR:
        state = np.random.get_state()
        np.random.seed(derived_seed(*parts) % 2**32)
        try:
            yield
        finally:
            np.random.set_state(state)


def draw_augmentation(
    keys: Sequence[str], size: int, settings: AugmentationSettings, flips: tuple[bool, bool], *, seed: int, epoch: int
) -> AugmentationParameters:
    """Draw the parameters of slices of ``size`` pixels, each keyed by (seed, epoch, its key).

    Args:
        keys: names of the slices, unique over the dataset (``SliceSource.keys``).
        size: N.
        settings: strengths.
        flips: whether rows and columns may be reversed (``allowed_flips``).
        seed: of the run.
        epoch: from 0.
    """
    points = math.ceil((size - 1) / _STEP) + 1
    coordinates = np.empty((len(keys), 2, points, points), dtype=np.float32)
    factors = np.empty((2, len(keys)), dtype=np.float32)
    for i, key in enumerate(keys):
        with numpy_seeded(seed, epoch, key, "augmentation"):
            # All numbers are drawn, used or not: a setting that changes does not reshuffle the others.
            contrast, brightness, *geometry = np.random.random(7)
            # Corner points are pixel centres, hence the (size - 1) / size.
            mesh = create_zero_centered_coordinate_mesh((points, points)) * ((size - 1) / size / (points - 1))
            coordinates[i] = _GEOMETRIES[settings.scheme](mesh, geometry, settings, flips)
            factors[:, i] = between(contrast, settings.contrast), between(brightness, settings.brightness)
    contrasts, brightnesses = torch.from_numpy(factors)
    intensities = draw_intensities(keys, settings, seed=seed, epoch=epoch)
    return AugmentationParameters(
        torch.from_numpy(coordinates), intensities._replace(contrast=contrasts, brightness=brightnesses)
    )


def apply_augmentation(images: Tensor, targets: Tensor, drawn: AugmentationParameters) -> tuple[Tensor, Tensor]:
    """Apply drawn parameters to images (B,C,N,N) float32 in [0,1] and targets (B,N,N) int64, on their device.

    Bicubic for images, nearest pixel for targets (-1 stays -1). What comes from beyond the slice is black and
    background.
    """
    grid = _grid(images, drawn)
    return apply_intensities(_moved(images, grid), drawn.intensities), _moved_labels(targets, grid)


def apply_geometry(images: Tensor, targets: Tensor | None, drawn: AugmentationParameters) -> tuple[Tensor, Tensor]:
    """The geometry of ``apply_augmentation`` alone, images in [0,1]; without targets all of theirs are -1."""
    grid = _grid(images, drawn)
    moved = _moved(images, grid).clamp(0, 1)
    if targets is None:
        return moved, torch.full_like(moved[:, 0], -1, dtype=torch.int64)
    return moved, _moved_labels(targets, grid)


def _grid(images: Tensor, drawn: AugmentationParameters) -> Tensor:
    """Where each pixel of the result comes from, (B,N,N,2) as ``grid_sample`` wants it."""
    size = images.shape[-2:]
    coordinates = to_device(drawn.coordinates, images.device)
    fine = functional.interpolate(coordinates, size=size, mode="bilinear", align_corners=True)
    return 2 * fine.permute(0, 2, 3, 1).flip(-1)


def _moved(images: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(images, grid, mode="bicubic", align_corners=False)


def _moved_labels(targets: Tensor, grid: Tensor) -> Tensor:
    # float32 holds every label value exactly, and nearest never mixes two of them.
    return functional.grid_sample(targets[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0].long()


def _compose(where: Floats, geometry: list[float], settings: AugmentationSettings, flips: tuple[bool, bool]) -> Floats:
    """Compose elastic deformation, rotation, scale and flips, from result to source: (2,n,n) in shares of the side."""
    angle, scale, rows, columns, elastic = geometry
    if elastic < settings.elastic:
        sigma = settings.elastic_smoothness * where.shape[-1]
        where = elastic_deform_coordinates(where, displacement_strength(settings, sigma), sigma)
    where = rotate_coords_2d(where, (2 * angle - 1) * math.radians(settings.rotation))
    where = scale_coords(where, 1 / between(scale, settings.scale))
    for axis, drawn in enumerate((rows, columns)):
        if flips[axis] and drawn < settings.flip:
            where[axis] *= -1
    return where


_GEOMETRIES = {"composed": _compose, "samed": samed_geometry, "hsam": hsam_geometry}
