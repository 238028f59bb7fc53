"""The U-Net decoder of the pixel level: from tokens of four depths to a clean image; thrown away after stage 1.

Shapes: B batch, g tokens along a side, D encoder width, N = 16 g pixels along a side, C channels, f width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_GROUPS = 8
_LEVELS = 4


def tap_blocks(depth: int) -> tuple[int, int, int, int]:
    """The blocks (1 is the first) whose tokens the decoder takes: 3, 6, 9, 12 of 12, in proportion for other depths."""
    first, second, third, last = (max(1, (2 * number * depth + _LEVELS) // (2 * _LEVELS)) for number in (1, 2, 3, 4))
    return first, second, third, last


class DenoisingDecoder(nn.Module):
    """A U-Net over the encoder's tokens, as in UNETR (arXiv 2103.10504), with widths 8f, 4f, 2f, f.

    The last tokens are upsampled bilinearly in four steps, each followed by a 3x3 convolution, GroupNorm and GELU.
    At 2g, 4g and 8g the tokens of shallower blocks join, each token laid out as the sub-grid of its patch: by bilinear
    upsampling alone the decoder cannot place detail inside a patch. UNETR also feeds in the raw image at full
    resolution; here that would let the decoder denoise without the encoder, and LoRA would learn nothing.

    f is 32 from the width of ViT-B on and less for narrower encoders, beside which the decoder would be the cost.
    """

    def __init__(self, embed_dim: int, channels: int) -> None:
        super().__init__()
        width = min(32, _GROUPS * max(1, embed_dim // 192))
        widths = [8 * width, 4 * width, 2 * width, width]
        self.enter = nn.Conv2d(embed_dim, widths[0], kernel_size=1)
        self.laterals = nn.ModuleList(_Lateral(embed_dim, widths[i], 2 ** (i + 1)) for i in range(_LEVELS - 1))
        incoming = [2 * widths[0], widths[0] + widths[1], widths[1] + widths[2], widths[2]]
        self.levels = nn.ModuleList(_convolution(*pair) for pair in zip(incoming, widths, strict=True))
        self.leave = nn.Conv2d(width, channels, kernel_size=1)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Tokens (B,g,g,D) of four blocks, the shallowest first (``tap_blocks``), to images (B,C,N,N), unbounded."""
        *shallow, last = (tokens.permute(0, 3, 1, 2) for tokens in taps)
        x: Tensor = self.enter(last)
        for number, level in enumerate(self.levels):
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            if number < len(self.laterals):
                x = torch.cat((x, self.laterals[number](shallow[-1 - number])), dim=1)
            x = level(x)
        images: Tensor = self.leave(x)
        return images


class _Lateral(nn.Sequential):
    """Each token (D) to ``factor`` x ``factor`` positions of ``width`` channels."""

    def __init__(self, embed_dim: int, width: int, factor: int) -> None:
        super().__init__(nn.Conv2d(embed_dim, width * factor**2, kernel_size=1), nn.PixelShuffle(factor))


def _convolution(incoming: int, outgoing: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, outgoing),
        nn.GELU(),
    )
