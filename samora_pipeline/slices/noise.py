"""Noise for the pixel level: what the denoiser has to remove. Parameters are drawn first, then applied.

The paper names neither kind nor strength. The mixture is ours, from the literature on denoising as pre-training:
Gaussian noise of varying strength; pixels replaced by a neighbour (Noise2Void, as in the paper's reference 60); noise
drawn on a coarse grid. Magnitude images of MR carry Rician noise instead of Gaussian.

Shapes: B batch, C channels, N pixels along a side; images are (B,C,N,N) in [0,1].
"""

from collections.abc import Sequence
from dataclasses import dataclass
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


def _one(image: Tensor, kind: int, sigma: float, share: float, seed: int, magnitude: Tensor) -> Tensor:
    generator = torch.Generator(image.device).manual_seed(seed)
    if kind == REPLACEMENT:
        return _replace(image, share, generator)
    side = image.shape[-1] if kind == GAUSSIAN else _COARSE_GRID
    field = torch.randn(2, image.shape[0], side, side, generator=generator, device=image.device) * sigma
    if kind == COARSE:
        field = functional.interpolate(field, size=image.shape[-2:], mode="bilinear", align_corners=False)
    noisy = image + field[0]
    return torch.where(magnitude, torch.hypot(noisy, field[1]), noisy)


def _replace(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Replace a share of the pixels, all channels at once, by another pixel of the 5 x 5 window around each."""
    size, device = image.shape[-1], image.device
    chosen = torch.rand(size, size, generator=generator, device=device) < share
    window = 2 * _REACH + 1
    # 24 neighbours: numbers from the middle on are shifted by one, which leaves out the pixel itself.
    number = torch.randint(window * window - 1, (size, size), generator=generator, device=device)
    number = number + (number >= window * window // 2)
    rows = torch.arange(size, device=device)[:, None] + number // window - _REACH
    columns = torch.arange(size, device=device) + number % window - _REACH
    return torch.where(chosen, image[:, rows.clamp(0, size - 1), columns.clamp(0, size - 1)], image)


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
        magnitude = torch.tensor(rician, device=images.device)[:, None, None]
        noisy = torch.empty_like(images)
        each = zip(drawn.kind.tolist(), drawn.sigma.tolist(), drawn.seeds, strict=True)
        for i, (kind, sigma, seed) in enumerate(each):
            noisy[i] = _one(images[i], kind, sigma, drawn.replaced, seed, magnitude)
        return noisy


def make_noise(spec: NoiseSpec) -> Noise:
    """The noise of a spec; raises what ``noise_options`` raises."""
    return NOISES.get(spec.name)(noise_options(spec))
