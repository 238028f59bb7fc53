"""A plain 2-D U-Net (arXiv 1505.04597), trained from random weights: the baseline that needs no base encoder.

Shapes: B batch, C channels of a slice, N pixels along a side, K output maps.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.errors import UsageError
from samora_pipeline.models.global_norm import GlobalBatchNorm
from samora_pipeline.models.shared_dropout import SharedDropout

WIDTHS = (16, 32, 64, 128, 256)
"""channels from the full resolution down, halving the side each time: 1.9 M parameters"""
_FLAT = 1e-4
"""added to a slice's deviation, so that a slice of one value stays finite"""


class UNet2d(nn.Module):
    """Two convolutions per resolution, max pooling down, transposed convolutions up, and the finer maps beside them.

    Each channel of each slice is brought to mean 0 and deviation 1 at the entrance. ``momentum`` is that of the batch
    norms, whose statistics are those of the global batch. ``dropout``: shares of the entries that are dropped between
    the two convolutions on the way down, one for each resolution; empty: none.

    Raises:
        UsageError: ``E-MODEL-01`` the input size cannot be halved as often as there are resolutions below the first.
    """

    def __init__(
        self,
        in_channels: int,
        num_outputs: int,
        input_size: int,
        widths: Sequence[int] = WIDTHS,
        momentum: float = 0.05,
        dropout: Sequence[float] = (),
    ) -> None:
        super().__init__()
        step = 2 ** (len(widths) - 1)
        if input_size % step:
            nearest = max(step, round(input_size / step) * step)
            raise UsageError("E-MODEL-01", found=f"{input_size} pixels", multiple=step, nearest=nearest)
        self.down = nn.ModuleList(
            _block(*pair, momentum, share)
            for pair, share in zip(pairwise((in_channels, *widths)), dropout or [0.0] * len(widths), strict=True)
        )
        finer = tuple(reversed(widths))
        self.up = nn.ModuleList(nn.ConvTranspose2d(below, own, 2, stride=2) for below, own in pairwise(finer))
        self.join = nn.ModuleList(_block(2 * own, own, momentum) for own in finer[1:])
        self.head = nn.Conv2d(widths[0], num_outputs, 1)
        # Measured on a CPU, batch of 16 at 128 px: 0.53 s per step instead of 0.72 s.
        self.to(memory_format=torch.channels_last)

    @property
    def output_bias(self) -> Tensor | None:
        """See ``models.samora.Network``."""
        return self.head.bias

    def forward(self, images: Tensor) -> Tensor:
        """Segment images (B,C,N,N) to logits (B,K,N,N)."""
        features = standardised(images).contiguous(memory_format=torch.channels_last)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            features = block(functional.max_pool2d(features, 2) if level else features)
            skips.append(features)
        skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            features = join(torch.cat((skips.pop(), up(features)), dim=1))
        logits: Tensor = self.head(features)
        return logits


def standardised(images: Tensor) -> Tensor:
    """Images (B,C,N,N) with mean 0 and deviation 1 in each channel of each slice."""
    mean, deviation = images.mean((2, 3), keepdim=True), images.std((2, 3), keepdim=True)
    return (images - mean) / (deviation + _FLAT)


def _block(inputs: int, outputs: int, momentum: float, dropout: float = 0.0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers += [SharedDropout(dropout)] * bool(layers and dropout)
        layers.append(nn.Conv2d(width, outputs, 3, padding=1, bias=False))
        layers += [GlobalBatchNorm(outputs, momentum=momentum), nn.LeakyReLU(0.01, inplace=True)]
    return nn.Sequential(*layers)
