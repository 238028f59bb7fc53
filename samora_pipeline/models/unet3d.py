"""A plain 3-D U-Net (arXiv 1606.06650) on whole volumes at a reduced resolution, trained from random weights.

Shapes: B batch, C channels, D planes, H W rows and columns of the grid that the volume was brought to, K output maps.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.model_spec import Volume
from samora_pipeline.errors import UsageError
from samora_pipeline.models.recomputation import Recomputing

WIDTHS = (16, 32, 64, 128)
"""channels from the full resolution down, halving each side each time: 1.4 M parameters"""
_GROUPS = 8
"""of channels that are normalised together, at most"""
_FLAT = 1e-4
"""added to a volume's deviation, so that a volume of one value stays finite"""


class UNet3d(Recomputing):
    """Two convolutions per resolution, max pooling down, transposed convolutions up, and the finer maps beside them.

    Each channel of each volume is brought to mean 0 and deviation 1 at the entrance. Group norm, because a batch of two
    volumes says little about any other.

    Raises:
        UsageError: ``E-MODEL-01`` a side that cannot be halved as often as there are resolutions below the first.
    """

    def __init__(self, in_channels: int, num_outputs: int, volume: Volume, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        step = 2 ** (len(widths) - 1)
        if any(side % step for side in volume):
            nearest = ",".join(str(max(step, round(side / step) * step)) for side in volume)
            what = "a side of the volume cannot be halved as often as the network does"
            found = " x ".join(map(str, volume))
            raise UsageError("E-MODEL-01", what, found=found, multiple=step, fix=f"--set model.volume={nearest}")
        self.down = nn.ModuleList(_block(*pair) for pair in pairwise((in_channels, *widths)))
        finer = tuple(reversed(widths))
        self.up = nn.ModuleList(nn.ConvTranspose3d(below, own, 2, stride=2) for below, own in pairwise(finer))
        self.join = nn.ModuleList(_block(2 * own, own) for own in finer[1:])
        self.head = nn.Conv3d(widths[0], num_outputs, 1)
        # Measured on a CPU, two volumes of 48 x 80 x 96: 8.0 s per step instead of 10.4 s.
        self.to(memory_format=torch.channels_last_3d)

    @property
    def output_bias(self) -> Tensor | None:
        """See ``models.samora.Network``."""
        return self.head.bias

    def forward(self, images: Tensor) -> Tensor:
        """Segment volumes (B,C,D,H,W) to logits (B,K,D,H,W)."""
        axes = (2, 3, 4)
        features = (images - images.mean(axes, keepdim=True)) / (images.std(axes, keepdim=True) + _FLAT)
        features = features.contiguous(memory_format=torch.channels_last_3d)
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            features = self.run_block(block, functional.max_pool3d(features, 2) if level else features)
            skips.append(features)
        skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            features = self.run_block(join, torch.cat((skips.pop(), up(features)), dim=1))
        logits: Tensor = self.head(features)
        return logits


def _block(inputs: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, outputs):
        layers.append(nn.Conv3d(width, outputs, 3, padding=1, bias=False))
        layers += [nn.GroupNorm(math.gcd(_GROUPS, outputs), outputs), nn.LeakyReLU(0.01, inplace=True)]
    return nn.Sequential(*layers)
