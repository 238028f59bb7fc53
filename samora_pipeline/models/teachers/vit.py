"""The transformer that MAE is made of, under the parameter names of its public files, and its fixed positions.

Shapes: B batch, L tokens, D width, g side of a grid.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

NORM_EPSILON = 1e-6
_LONGEST_WAVE = 10_000.0


class Attention(nn.Module):
    """Multi-head self-attention with a fused, biased qkv product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B,L,D) to the same shape."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block with an MLP four times as wide."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        layers = {"fc1": nn.Linear(width, 4 * width), "gelu": nn.GELU(), "fc2": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B,L,D) to the same shape."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Module):
    """Patches to tokens by one convolution; the public files call it ``proj``."""

    def __init__(self, patch_size: int, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """(B,C,N,N) to (B,L,D), row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


def initialise(module: nn.Module) -> None:
    """Start linear layers as MAE does: Xavier uniform, no offset; the patch embedding counts as a linear layer."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.view(len(part.weight), -1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def position_table(width: int, grid: int, native_grid: int) -> Tensor:
    """MAE's fixed sine and cosine positions with a row of zeros for the class token, (1,1+g*g,D).

    The first half of the width encodes the column, the second the row. On another grid than the native one the
    coordinates are those of the same places in the image, so that the table is exact and not interpolated.
    """
    places = (torch.arange(grid, dtype=torch.float64) + 0.5) * native_grid / grid - 0.5
    quarter = width // 4
    rates = _LONGEST_WAVE ** -(torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = places[:, None] * rates
    waves = torch.cat((angles.sin(), angles.cos()), dim=1)
    columns, rows = waves.expand(grid, -1, -1), waves[:, None].expand(-1, grid, -1)
    table = torch.cat((columns, rows), dim=2).flatten(0, 1)
    return torch.cat((torch.zeros(1, width, dtype=torch.float64), table))[None].float()
