"""Augmented views of unlabelled slices, as batched tensor operations: parameters are drawn first, then applied.

Every sample draws from a generator of its own, keyed by (seed, epoch, sample, view). A view depends neither on the
batch that its slice sits in nor on the number of ranks, and a resumed run repeats it without any saved state.

Shapes: B batch, C channels, N pixels along a side; images are (B,C,N,N) in [0,1].
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.random_steps import Range, ViewSettings
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.transfers import to_device

Number = TypeVar("Number", float, Tensor)


class ViewParameters(NamedTuple):
    """What was drawn for B samples.

    ``affine`` (B,2,3) maps output to input coordinates, both from -1 to 1 across the slice (x along columns first);
    the others are (B,). ``blur_sigma`` is a share of the side, 0 where there is no blur.
    """

    affine: Tensor
    contrast: Tensor
    brightness: Tensor
    gamma: Tensor
    blur_sigma: Tensor

    def to(self, device: torch.device) -> "ViewParameters":
        """The same parameters on another device."""
        return ViewParameters(*(to_device(values, device) for values in self))


def draw_uniform(keys: Sequence[str], count: int, purpose: str, *, seed: int, epoch: int) -> Tensor:
    """Draw ``count`` numbers in [0,1) per sample, (B,count) float32, keyed by (seed, epoch, key, purpose)."""
    uniform = torch.empty(len(keys), count)
    for row, key in zip(uniform, keys, strict=True):
        row.uniform_(generator=torch.Generator().manual_seed(derived_seed(seed, epoch, key, purpose)))
    return uniform


def draw_views(
    keys: Sequence[str], settings: ViewSettings, flips: tuple[bool, bool], *, seed: int, epoch: int, view: int = 0
) -> ViewParameters:
    """Draw the parameters of one view for each sample.

    Args:
        keys: name of each sample, unique over the pool (``SliceSource.keys``).
        settings: strengths.
        flips: whether rows and columns may be reversed (``augmentation.allowed_flips``).
        seed: of the run.
        epoch: from 0.
        view: 0 or 1 for the two views of a contrastive pair.
    """
    # Always 12 numbers, whatever the settings are: another strength does not reshuffle the other parameters.
    uniform = draw_uniform(keys, 12, f"view {view}", seed=seed, epoch=epoch)
    area, ratio, x, y, angle, flip_rows, flip_columns, contrast, brightness, gamma, blurred, sigma = uniform.T
    return ViewParameters(
        affine=_affine(
            between(area, settings.area),
            between_logarithmic(ratio, settings.aspect),
            torch.stack((x, y)),
            (2 * angle - 1) * math.radians(settings.rotation),
            torch.stack(((flip_columns < 0.5) & flips[1], (flip_rows < 0.5) & flips[0])),
        ),
        contrast=between(contrast, settings.contrast),
        brightness=between(brightness, settings.brightness),
        gamma=between_logarithmic(gamma, settings.gamma),
        blur_sigma=between(sigma, settings.blur_sigma) * (blurred < settings.blur),
    )


def apply_views(images: Tensor, views: ViewParameters) -> Tensor:
    """Apply drawn parameters: one interpolation, then contrast, brightness and gamma, then blur.

    Bilinear; beyond the edge the outermost pixels are repeated (air stays air). Returns (B,C,N,N) in [0,1].
    """
    blurred = to_device(views.blur_sigma.nonzero().flatten(), images.device)
    views = views.to(images.device)
    grid = functional.affine_grid(views.affine, list(images.shape), align_corners=False)
    result = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    result = _adjust(result, views)
    if len(blurred):
        result[blurred] = blur(result[blurred], views.blur_sigma[blurred])
    return result


def draw_token_masks(keys: Sequence[str], grid: int, ratio: float = 0.75, *, seed: int, epoch: int) -> Tensor:
    """Draw which patches are hidden, (B,grid,grid) bool; each sample hides the same number, as MAE does.

    The share that stays visible is rounded down: 49 of 196 patches at the default ratio.
    """
    count = grid * grid
    noise = draw_uniform(keys, count, "token mask", seed=seed, epoch=epoch)
    rank = noise.argsort(dim=1, stable=True).argsort(dim=1)
    return (rank < count - visible_count(grid, ratio)).view(len(keys), grid, grid)


def visible_count(grid: int, ratio: float) -> int:
    """The number of patches that ``draw_token_masks`` leaves visible in each sample."""
    return int(grid * grid * (1 - ratio))


def _affine(area: Tensor, ratio: Tensor, place: Tensor, angle: Tensor, flip: Tensor) -> Tensor:
    """Output to input: reverse, shrink to the crop, turn, move to the crop's centre. Pairs are (x, y)."""
    half = torch.stack(((area * ratio).sqrt(), (area / ratio).sqrt())).clamp(max=1.0)
    centre = (2 * place - 1) * (1 - half)
    reach = half * torch.where(flip, -1.0, 1.0)
    cosine, sine = angle.cos(), angle.sin()
    rows = cosine * reach[0], -sine * reach[1], centre[0], sine * reach[0], cosine * reach[1], centre[1]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def _adjust(images: Tensor, views: ViewParameters) -> Tensor:
    contrast, brightness, gamma = (value.view(-1, 1, 1, 1) for value in (views.contrast, views.brightness, views.gamma))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (((images - mean) * contrast + mean) * brightness).clamp(0, 1).pow(gamma)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a sigma per sample (share of each side), as two products with a band matrix.

    Weights that would lie outside the slice are left out and the rest sums to 1.
    """
    rows, columns = (_blurring(side, sigma.to(images.dtype)) for side in images.shape[-2:])
    return rows @ images @ columns.mT


def _blurring(side: int, sigma: Tensor) -> Tensor:
    place = torch.arange(side, device=sigma.device, dtype=sigma.dtype)
    distance = (place[:, None] - place) / (sigma * side)[:, None, None]
    weights = (-0.5 * distance.square()).exp()
    return (weights / weights.sum(dim=2, keepdim=True))[:, None]


def between(uniform: Number, ends: Range) -> Number:
    """Bring numbers drawn from [0, 1) to the range ``ends``."""
    return ends[0] + (ends[1] - ends[0]) * uniform


def between_logarithmic(uniform: Tensor, ends: Range) -> Tensor:
    """The same on a logarithmic scale; both ends are positive."""
    return between(uniform, (math.log(ends[0]), math.log(ends[1]))).exp()
