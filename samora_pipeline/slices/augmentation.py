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
from samora_pipeline.slices.released import displacement_strength, hsam_geometry, samed_geometry
from samora_pipeline.slices.views import between

Floats = NDArray[np.floating]
_GLOBAL_GENERATOR = threading.RLock()
_STEP = 4
"""Pixels between the points of the coarse grid. Linear interpolation between them is exact for rotation, scale and
flips, and within a few hundredths of a pixel for the smooth elastic deformation."""


class AugmentationParameters(NamedTuple):
    """What was drawn for B slices.

    ``coordinates`` (B,2,n,n): for points spread evenly over the result, corners included, where they come from: (row,
    column) as shares of the side, -0.5 to 0.5 across the slice. ``contrast`` and ``brightness`` are (B,).
    """

    coordinates: Tensor
    contrast: Tensor
    brightness: Tensor


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
    return AugmentationParameters(torch.from_numpy(coordinates), contrasts, brightnesses)


def apply_augmentation(images: Tensor, targets: Tensor, drawn: AugmentationParameters) -> tuple[Tensor, Tensor]:
    """Apply drawn parameters to images (B,C,N,N) float32 in [0,1] and targets (B,N,N) int64, on their device.

    Bicubic for images, nearest pixel for targets (-1 stays -1). What comes from beyond the slice is black and
    background.
    """
    device, size = images.device, images.shape[-1]
    fine = functional.interpolate(drawn.coordinates.to(device), size=(size, size), mode="bilinear", align_corners=True)
    grid = 2 * fine.permute(0, 2, 3, 1).flip(-1)
    moved = functional.grid_sample(images, grid, mode="bicubic", align_corners=False)
    # float32 holds every label value exactly, and nearest never mixes two of them.
    labels = functional.grid_sample(targets[:, None].float(), grid, mode="nearest", align_corners=False)[:, 0]
    mean = moved.mean(dim=(1, 2, 3), keepdim=True)
    contrast, brightness = (value.to(device).view(-1, 1, 1, 1) for value in (drawn.contrast, drawn.brightness))
    return (((moved - mean) * contrast + mean) * brightness).clamp(0, 1), labels.long()


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
