"""Noise for the pixel level: what the denoiser has to remove. Parameters are drawn first, then applied.

The paper names neither kind nor strength. The mixture is ours, from the literature on denoising as pre-training:
Gaussian noise of varying strength; pixels replaced by a neighbour (Noise2Void, as in the paper's reference 60); noise
drawn on a coarse grid. Magnitude images of MR carry Rician noise instead of Gaussian.

Shapes: B batch, C channels, N pixels along a side; images are (B,C,N,N) in [0,1].
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.part_options import NoiseSettings
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.random_steps import NoiseSpec
from samora_pipeline.imaging.intensity import scheme_of
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.slices.noise_catalog import NOISES, noise_options
from samora_pipeline.slices.views import between, draw_uniform
from samora_pipeline.transfers import to_device

GAUSSIAN, REPLACEMENT, COARSE = range(3)
_COARSE_GRID = 16
_REACH = 2


@dataclass(frozen=True)
class NoiseParameters:
    """What was drawn for B samples: kind (B,) and sigma (B,), and the seed of each sample's random field."""

    kind: Tensor
    sigma: Tensor
    replaced: float
    seeds: tuple[int, ...]


def rician_channels(plans: Plans) -> tuple[bool, ...]:
    """Which channels are taken for MR magnitude images, by their intensity schemes."""
    return tuple(scheme_of(rule).magnitude for rule in plans.intensity.value)


def _fields(images: Tensor, side: int, seeds: Sequence[int]) -> Tensor:
    """Normal numbers for images (B,C,N,N), from a generator for each: (2,B,C,side,side)."""
    fields = images.new_empty((len(images), 2, images.shape[1], side, side))
    for field, seed in zip(fields, seeds, strict=True):
        field.normal_(generator=_generator(images, seed))
    return fields.transpose(0, 1)


def _generator(images: Tensor, seed: int) -> torch.Generator:
    return torch.Generator(images.device).manual_seed(seed)


def _strength(images: Tensor, drawn: NoiseParameters) -> Tensor:
    return to_device(drawn.sigma, images.device).view(-1, 1, 1, 1)


def _disturb(images: Tensor, fields: Tensor, rician: tuple[bool, ...]) -> Tensor:
    """Add the first of two fields; magnitudes are those of a complex signal with both."""
    noisy = images + fields[0]
    if not any(rician):
        return noisy
    magnitude = to_device(torch.tensor(rician), images.device)[:, None, None]
    return torch.where(magnitude, torch.hypot(noisy, fields[1]), noisy)


def _gaussian(images: Tensor, drawn: NoiseParameters, rician: tuple[bool, ...]) -> Tensor:
    return _disturb(images, _fields(images, images.shape[-1], drawn.seeds) * _strength(images, drawn), rician)


def _coarse(images: Tensor, drawn: NoiseParameters, rician: tuple[bool, ...]) -> Tensor:
    fields = _fields(images, _COARSE_GRID, drawn.seeds) * _strength(images, drawn)
    fine = functional.interpolate(fields.flatten(0, 1), size=images.shape[-2:], mode="bilinear", align_corners=False)
    return _disturb(images, torch.unflatten(fine, 0, fields.shape[:2]), rician)


def _replace(images: Tensor, drawn: NoiseParameters, rician: tuple[bool, ...]) -> Tensor:
    """Replace a share of the pixels, all channels at once, by another pixel of the 5 x 5 window around each."""
    count, _, size, _ = images.shape
    device, window = images.device, 2 * _REACH + 1
    drawings = images.new_empty((count, size, size))
    number = torch.empty((count, size, size), dtype=torch.int64, device=device)
    for uniform, neighbour, seed in zip(drawings, number, drawn.seeds, strict=True):
        generator = _generator(images, seed)
        uniform.uniform_(generator=generator)
        neighbour.random_(0, window * window - 1, generator=generator)
    # 24 neighbours: numbers from the middle on are shifted by one, which leaves out the pixel itself.
    number = number + (number >= window * window // 2)
    rows = torch.arange(size, device=device)[:, None] + number // window - _REACH
    columns = torch.arange(size, device=device) + number % window - _REACH
    place = rows.clamp(0, size - 1) * size + columns.clamp(0, size - 1)
    others = images.flatten(2).gather(2, place.flatten(1)[:, None].expand(-1, images.shape[1], -1)).view_as(images)
    return torch.where((drawings < drawn.replaced)[:, None], others, images)


class Noise(Protocol):
    """A kind of noise: what is random is drawn for samples by name, then applied on their device.

    It is made from its options, an instance of the frozen dataclass ``Options``.
    """

    Options: ClassVar[type[Any]]

    def __init__(self, options: Any) -> None: ...

    def draw(self, keys: Sequence[str], *, seed: int, epoch: int) -> Any:
        """Parameters for the samples ``keys`` (B of them), determined by (seed, epoch, sample)."""

    def apply(self, images: Tensor, drawn: Any, rician: tuple[bool, ...]) -> Tensor:
        """Noisy images (B,C,N,N) from clean ones.

        ``rician`` says per channel whether the noise enters both parts of a complex signal whose magnitude is the image
        (``rician_channels``).
        """


class Mixture(Noise):
    """The mixture of ``NoiseSettings``."""

    Options = NoiseSettings

    def __init__(self, options: NoiseSettings) -> None:
        self._settings = options

    def draw(self, keys: Sequence[str], *, seed: int, epoch: int) -> NoiseParameters:
        """Draw kind and strength of the noise for each sample, keyed by (seed, epoch, sample)."""
        settings, uniform = self._settings, draw_uniform(keys, 2, "noise", seed=seed, epoch=epoch)
        edges = torch.tensor(settings.shares).cumsum(0)[:-1]
        return NoiseParameters(
            kind=torch.bucketize(uniform[:, 0].contiguous(), edges, right=True),
            sigma=between(uniform[:, 1], settings.sigma),
            replaced=settings.replaced,
            seeds=tuple(derived_seed(seed, epoch, key, "noise field") for key in keys),
        )

    def apply(self, images: Tensor, drawn: NoiseParameters, rician: tuple[bool, ...]) -> Tensor:
        """Return noisy images; not clipped, because clipping at black would shift the mean of the noise.

        The random fields come from the device's own generator, so another kind of device draws another field.
        """
        noisy = images
        for kind, change in ((GAUSSIAN, _gaussian), (REPLACEMENT, _replace), (COARSE, _coarse)):
            rows = (drawn.kind == kind).nonzero().flatten()
            if len(rows):
                where = to_device(rows, images.device)
                own = replace(drawn, sigma=drawn.sigma[rows], seeds=tuple(drawn.seeds[row] for row in rows.tolist()))
                noisy = noisy.index_copy(0, where, change(images[where], own, rician))
        return noisy


def make_noise(spec: NoiseSpec) -> Noise:
    """The noise of a spec; raises what ``noise_options`` raises."""
    return NOISES.get(spec.name)(noise_options(spec))
