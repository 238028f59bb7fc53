"""Augmentation of whole volumes: one affine interpolation, then the intensities of slices; drawn first, then applied.

Geometry is that of the scan in millimetres, whatever the proportions of the grid. Every volume draws from generators of
its own, keyed by (seed, epoch, volume), so that it is varied alike in any batch, on any number of ranks, and after a
resume.

Shapes: B batch, C channels, D planes, H W rows and columns.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.random_steps import VolumeAugmentationSettings
from samora_pipeline.slices.intensities import IntensityParameters, apply_intensities, draw_intensities
from samora_pipeline.slices.views import between, draw_uniform


class VolumeParameters(NamedTuple):
    """What was drawn for B volumes.

    ``affine`` (B,3,4) maps places of the result to places of the source, both from -1 to 1 across the volume, in the
    order of ``grid_sample``: columns, rows, planes.
    """

    affine: Tensor
    intensities: IntensityParameters


def draw_volume_augmentation(
    keys: Sequence[str],
    extents: Tensor,
    settings: VolumeAugmentationSettings,
    *,
    mirror: bool,
    seed: int,
    epoch: int,
) -> VolumeParameters:
    """Draw the parameters of volumes, each keyed by (seed, epoch, its key).

    Args:
        keys: names of the volumes, unique over the dataset (``VolumeSource.keys``).
        extents: of the scans in mm along planes, rows and columns, (B,3).
        settings: strengths.
        mirror: whether the plan allows flips.
        seed: of the run.
        epoch: from 0.
    """
    # All numbers are drawn, used or not: a setting that changes does not reshuffle the others.
    uniform = draw_uniform(keys, 10, "volume", seed=seed, epoch=epoch)
    strongest = torch.tensor([settings.tilt, settings.tilt, settings.rotation])
    angles = (2 * uniform[:, :3] - 1) * strongest * (math.pi / 180)
    flips = torch.where((uniform[:, 3:6] < settings.flip) & mirror, -1.0, 1.0)
    scale = between(uniform[:, 6], settings.scale)
    turned = torch.diag_embed(flips) @ _rotation(angles) / scale[:, None, None]
    # From shares of the volume to mm, and back.
    sizes = extents.flip(1)
    linear = turned * sizes[:, None, :] / sizes[:, :, None]
    # 2, because the volume reaches from -1 to 1.
    moved = 2 * settings.translation * (2 * uniform[:, 7:] - 1)
    return VolumeParameters(
        torch.cat((linear, moved[..., None]), dim=2), draw_intensities(keys, settings, seed=seed, epoch=epoch)
    )


def apply_volume_augmentation(images: Tensor, targets: Tensor, drawn: VolumeParameters) -> tuple[Tensor, Tensor]:
    """Apply drawn parameters to volumes (B,C,D,H,W) float32 in [0,1] and targets (B,D,H,W) int64, on their device.

    Trilinear for images, nearest voxel for targets (-1 stays -1). What comes from beyond the volume is black and
    background. Blur, low resolution and bias fields are those of slices, the same in every plane.
    """
    grid = functional.affine_grid(drawn.affine.to(images.device), list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, mode="bilinear", align_corners=False)
    # float32 holds every label value exactly, and nearest never mixes two of them.
    labels = functional.grid_sample(targets[:, None].float(), grid, mode="nearest", align_corners=False)
    varied = apply_intensities(moved.flatten(1, 2), drawn.intensities).view_as(moved)
    return varied, labels[:, 0].long()


def _rotation(angles: Tensor) -> Tensor:
    """Rotations (B,3,3) of (column, row, plane) by angles (B,3) in radians about these axes, the plane's first."""
    result = torch.eye(3).expand(len(angles), 3, 3)
    for axis in range(3):
        first, second = (axis + 1) % 3, (axis + 2) % 3
        cosine, sine = angles[:, axis].cos(), angles[:, axis].sin()
        turn = torch.eye(3).repeat(len(angles), 1, 1)
        turn[:, first, first], turn[:, second, second] = cosine, cosine
        turn[:, first, second], turn[:, second, first] = -sine, sine
        result = result @ turn
    return result
