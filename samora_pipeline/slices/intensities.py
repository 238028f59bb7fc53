"""Intensities of slices at random: parameters are drawn first, then applied; geometry stays as it is.

Every slice draws from generators of its own, keyed by (seed, epoch, slice), so that it is varied alike in any batch,
on any number of ranks, and after a resume.

Shapes: B batch, C channels, N pixels along a side, k increments of a curve, f points along a side of a bias field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.random_steps import IntensitySettings
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.slices.views import between, between_logarithmic, blur, draw_uniform
from samora_pipeline.transfers import to_device

_PIECES = 4
_STEEPEST = 8.0
"""how many times as steep as the flattest the steepest piece of a random curve may be"""
_FIELD = 4


class IntensityParameters(NamedTuple):
    """What was drawn for B slices, one value each unless said otherwise.

    ``curve`` (B,k) are the heights of the pieces of a monotone curve over [0,1], 1 in all. ``field`` (B,f,f) is in
    [-1,1] and ``bias`` its strength. ``blur_sigma`` is a share of the side (0: no blur), ``resolution`` the share of
    the side that is left (1: all). ``noise`` is a standard deviation, ``seeds`` those of the noise.
    """

    contrast: Tensor
    brightness: Tensor
    curve: Tensor
    gamma: Tensor
    bias: Tensor
    field: Tensor
    blur_sigma: Tensor
    resolution: Tensor
    noise: Tensor
    seeds: tuple[int, ...]


def draw_intensities(
    keys: Sequence[str], settings: IntensitySettings, *, seed: int, epoch: int, purpose: str = "intensities"
) -> IntensityParameters:
    """Draw the parameters of slices, each keyed by (seed, epoch, its key, ``purpose``).

    Args:
        keys: names of the slices, unique over the dataset (``SliceSource.keys``).
        settings: strengths.
        seed: of the run.
        epoch: from 0.
        purpose: distinguishes what is drawn twice for the same slice.
    """
    # All numbers are drawn, used or not: a setting that changes does not reshuffle the others.
    uniform = draw_uniform(keys, 10 + _PIECES + _FIELD**2, purpose, seed=seed, epoch=epoch)
    contrast, brightness, curved, gamma, bias, blurred, sigma, coarse, resolution, noise = uniform[:, :10].T
    pieces, field = uniform[:, 10 : 10 + _PIECES], uniform[:, 10 + _PIECES :]
    heights = between_logarithmic(pieces, (1.0, _STEEPEST))
    heights = torch.where((curved < settings.curve)[:, None], heights, torch.ones_like(heights))
    return IntensityParameters(
        contrast=between(contrast, settings.contrast),
        brightness=between(brightness, settings.brightness),
        curve=heights / heights.sum(1, keepdim=True),
        gamma=between_logarithmic(gamma, settings.gamma),
        bias=between(bias, settings.bias),
        field=2 * field.reshape(-1, _FIELD, _FIELD) - 1,
        blur_sigma=between(sigma, settings.blur_sigma) * (blurred < settings.blur),
        resolution=torch.where(coarse < settings.low_resolution, between(resolution, settings.resolution), 1.0),
        noise=between(noise, settings.noise),
        seeds=tuple(derived_seed(seed, epoch, key, purpose, "noise") for key in keys),
    )


def apply_intensities(images: Tensor, drawn: IntensityParameters) -> Tensor:
    """Vary images (B,C,N,N) float32 on their device, to (B,C,N,N) in [0,1].

    Beyond contrast and brightness only slices for which a change was drawn are touched. The noise comes from the
    device's own generator.
    """
    result = adjust(images, drawn.contrast, drawn.brightness)
    for changed, change in (
        ((drawn.curve != 1 / _PIECES).any(1), _bend),
        (drawn.gamma != 1, _raise),
        (drawn.bias != 0, _shade),
        (drawn.blur_sigma != 0, _soften),
        (drawn.resolution != 1, _coarsen),
        (drawn.noise != 0, _disturb),
    ):
        rows = changed.nonzero().flatten()
        if len(rows):
            where = to_device(rows, images.device)
            varied = change(result[where], _of(drawn, rows)).clamp(0, 1)
            result = result.index_copy(0, where, varied)
    return result


def adjust(images: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    """Stretch images (B,C,N,N) about their mean by ``contrast`` (B,), multiply by ``brightness`` (B,), clip to 0..1."""
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (((images - mean) * _column(contrast, images) + mean) * _column(brightness, images)).clamp(0, 1)


def _of(drawn: IntensityParameters, rows: Tensor) -> IntensityParameters:
    tensors = {name: values[rows] for name, values in drawn._asdict().items() if name != "seeds"}
    return IntensityParameters(**tensors, seeds=tuple(drawn.seeds[row] for row in rows.tolist()))


def _column(values: Tensor, images: Tensor) -> Tensor:
    return to_device(values, images.device).view(-1, 1, 1, 1)


def _bend(images: Tensor, drawn: IntensityParameters) -> Tensor:
    """Piecewise linear over equal parts of [0,1]."""
    heights = to_device(drawn.curve, images.device)
    below = functional.pad(heights.cumsum(1), (1, 0))[:, :-1]
    place = images.clamp(0, 1) * _PIECES
    piece = place.long().clamp(max=_PIECES - 1)
    flat = piece.flatten(1)
    start, height = (values.gather(1, flat).view_as(images) for values in (below, heights))
    return start + height * (place - piece)


def _raise(images: Tensor, drawn: IntensityParameters) -> Tensor:
    return images.clamp(0, 1).pow(_column(drawn.gamma, images))


def _shade(images: Tensor, drawn: IntensityParameters) -> Tensor:
    field = functional.interpolate(
        to_device(drawn.field[:, None], images.device), images.shape[-2:], mode="bicubic", align_corners=True
    )
    return images * (1 + field * _column(drawn.bias, images))


def _soften(images: Tensor, drawn: IntensityParameters) -> Tensor:
    return blur(images, to_device(drawn.blur_sigma, images.device))


def _coarsen(images: Tensor, drawn: IntensityParameters) -> Tensor:
    return torch.cat(
        [_resampled(image[None], share) for image, share in zip(images, drawn.resolution.tolist(), strict=True)]
    )


def _resampled(image: Tensor, share: float) -> Tensor:
    """One image (1,C,H,W) by the means of coarser pixels and linear interpolation between them."""
    rows, columns = (max(1, round(side * share)) for side in image.shape[-2:])
    coarse = functional.adaptive_avg_pool2d(image, (rows, columns))
    return functional.interpolate(coarse, image.shape[-2:], mode="bilinear", align_corners=False)


def _disturb(images: Tensor, drawn: IntensityParameters) -> Tensor:
    noisy = [
        image + deviation * torch.randn(image.shape, generator=_generator(image, seed), device=image.device)
        for image, deviation, seed in zip(images, drawn.noise.tolist(), drawn.seeds, strict=True)
    ]
    return torch.stack(noisy)


def _generator(image: Tensor, seed: int) -> torch.Generator:
    return torch.Generator(image.device).manual_seed(seed)
