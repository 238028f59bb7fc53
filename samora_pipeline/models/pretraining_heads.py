"""What stands on a student's tokens in stage 1 and is thrown away after it: projectors and decoders.

Shapes: B batch, N pixels along a side, g tokens along a side, D width of the last block's tokens, D0 width in front of
the first block (D0 = D but for Hiera), D' width and t side of a teacher's feature, P pixels along a side of a patch, C
channels, f width of the denoiser, whose taps have s tokens along a side (s = N / 16 and one D for SAM; N / 4 to N / 32
and growing D for Hiera).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.models.backbones.backbone import TokenShape

PROJECTION_WIDTH = 128


class ContrastiveHead(nn.Module):
    """Mean of the tokens, then three layers D-D-128 (SimCLRv2's depth and output width).

    SimCLRv2 has batch norm after each layer; here LayerNorm follows the two hidden layers, so that an embedding does
    not depend on its batch and ranks need not exchange statistics. SAM has no norm behind its last block, hence one
    without parameters on each token. The output is not normalised: the loss does that.
    """

    def __init__(self, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.layers = nn.Sequential(
            nn.Linear(embed_dim, embed_dim, bias=False),
            nn.LayerNorm(embed_dim),
            nn.ReLU(),
            nn.Linear(embed_dim, embed_dim, bias=False),
            nn.LayerNorm(embed_dim),
            nn.ReLU(),
            nn.Linear(embed_dim, PROJECTION_WIDTH, bias=False),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B,g,g,D) of the last block to embeddings (B,128)."""
        pooled = functional.layer_norm(tokens, (self.embed_dim,)).mean(dim=(1, 2))
        return self.layers(pooled)


class DistillationHead(nn.Module):
    """A linear projector from the student's tokens to a teacher's feature, on the student's side only.

    SAM has no norm behind its last block, hence one without parameters on each token. For a feature without a grid
    (``grid`` 0) the tokens are averaged first; for a coarser one they are averaged onto its grid. Linear, because
    a stronger projector can solve the task by itself and leave the LoRA as it is.
    """

    def __init__(self, embed_dim: int, width: int, grid: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.grid = grid
        self.projector = nn.Linear(embed_dim, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B,g,g,D) to (B,D') without a grid, else to (B,t,t,D') with t the smaller of both sides."""
        normed = functional.layer_norm(tokens, (self.embed_dim,))
        if self.grid == 0:
            normed = normed.mean(dim=(1, 2))
        elif normed.shape[1] > self.grid:
            normed = functional.adaptive_avg_pool2d(normed.permute(0, 3, 1, 2), self.grid).permute(0, 2, 3, 1)
        return self.projector(normed)


PATCH_SIZE = 16


class PatchDecoder(nn.Module):
    """A norm and one linear layer from a token to the pixels of its patch, and the token that stands for hidden ones.

    The encoder sees the whole grid with hidden patches replaced (SimMIM, arXiv 2111.09886), because SAM's relative
    positions and windows need it. So that light a decoder cannot solve the task by itself; the encoder has to.
    """

    def __init__(
        self, embed_dim: int, channels: int, patch_size: int = PATCH_SIZE, *, mask_width: int | None = None
    ) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(mask_width or embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.layers = nn.Sequential(
            nn.LayerNorm(embed_dim, elementwise_affine=False), nn.Linear(embed_dim, patch_size**2 * channels)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B,g,g,D) of the last block to patches (B,g,g,P*P*C), channels innermost."""
        return self.layers(tokens)


_GROUPS = 8
_LEVELS = 4


def tap_blocks(shapes: Sequence[TokenShape]) -> tuple[int, int, int, int]:
    """The blocks (1 is the first) whose tokens the decoder takes, the shallowest first.

    ``shapes`` are those of the encoder. Where it has four stages, the last block of each; where its grid never
    changes, 3, 6, 9, 12 of 12 blocks, in proportion for other depths.
    """
    depth = len(shapes)
    ends = [number for number in range(1, depth) if shapes[number] != shapes[number - 1]] + [depth]
    if len(ends) != _LEVELS:
        ends = [max(1, (2 * number * depth + _LEVELS) // (2 * _LEVELS)) for number in (1, 2, 3, 4)]
    first, second, third, last = ends
    return first, second, third, last


class DenoisingDecoder(nn.Module):
    """A U-Net over the encoder's tokens, as in UNETR (arXiv 2103.10504), with widths 8f, 4f, 2f, f.

    The last tokens are upsampled bilinearly step by step to N, each step followed by a 3x3 convolution, GroupNorm and
    GELU; steps below N / 8 have width 8f. At N / 8, N / 4 and N / 2 the tokens of shallower blocks join, each laid out
    as the sub-grid of its patch: by bilinear upsampling alone the decoder cannot place detail inside a patch.
    UNETR also feeds in the raw image at full resolution; here that would let the decoder denoise without the encoder,
    and LoRA would learn nothing.

    f is 32 from the width of ViT-B on and less for narrower encoders, beside which the decoder would be the cost.

    Args:
        taps: shapes of the tokens of four depths, the shallowest first (``tap_blocks``).
        input_size: N.
        channels: C.
    """

    def __init__(self, taps: Sequence[TokenShape], input_size: int, channels: int) -> None:
        super().__init__()
        *shallow, last = taps
        width = min(32, _GROUPS * max(1, last.width // 192))
        ends = [8 * width, 4 * width, 2 * width, width]
        self.before = (input_size // last.side).bit_length() - 1 - _LEVELS
        widths = [ends[0]] * self.before + ends
        self.enter = nn.Conv2d(last.width, ends[0], kernel_size=1)
        self.laterals = nn.ModuleList(
            _Lateral(tap.width, outgoing, input_size // (divisor * tap.side))
            for tap, outgoing, divisor in zip(reversed(shallow), ends[:-1], (8, 4, 2), strict=True)
        )
        joining = [0] * self.before + ends[:-1] + [0]
        incoming = [below + joined for below, joined in zip([ends[0], *widths[:-1]], joining, strict=True)]
        self.levels = nn.ModuleList(_convolution(*pair) for pair in zip(incoming, widths, strict=True))
        self.leave = nn.Conv2d(width, channels, kernel_size=1)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        """Tokens (B,s,s,D) of four blocks, the shallowest first, to images (B,C,N,N), unbounded."""
        *shallow, last = (tokens.permute(0, 3, 1, 2) for tokens in taps)
        x: Tensor = self.enter(last)
        for number, level in enumerate(self.levels, start=-self.before):
            x = functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            if 0 <= number < len(self.laterals):
                x = torch.cat((x, self.laterals[number](shallow[-1 - number])), dim=1)
            x = level(x)
        return self.leave(x)


class _Lateral(nn.Sequential):
    """Each token (D) to ``factor`` x ``factor`` positions of ``width`` channels."""

    def __init__(self, embed_dim: int, width: int, factor: int) -> None:
        super().__init__(nn.Conv2d(embed_dim, width * factor**2, kernel_size=1), nn.PixelShuffle(factor))


def _convolution(incoming: int, outgoing: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(incoming, outgoing, kernel_size=3, padding=1, bias=False), nn.GroupNorm(_GROUPS, outgoing), nn.GELU()
    )
