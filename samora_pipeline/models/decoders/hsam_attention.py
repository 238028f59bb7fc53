"""The attentions of H-SAM (CVPR 2024): class-balanced, mask-guided self-attention, and two-way transformers.

The self-attention says where in the image the second stage looks harder. In the transformers tokens look at the image
first, then at each other; masks guide stage 2.

Shapes: B batch, K output maps and mask tokens, T tokens (K, in stage 1 one more), P width, g side of the embedding
grid, L = g g image tokens, s side of the mask features inside, n = s s.
"""

import math
from typing import Any

import torch
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.batch_parts import dropout as drop
from samora_pipeline.batch_parts import normal_like
from samora_pipeline.distributed import gather_statistics

SIDE = 14
HEADS = 7
MLP_DIM = 2048
FEATURE_DROPOUT = 0.1
RAREST_NOISE = 0.35
"""noise on the rarest class of a batch, in standard deviations of the features; H-SAM's code lists .35 to 0"""

_VALUES = 256
"""label values that a target can have"""


class MaskGuidedAttention(nn.Module):
    """Self-attention over the K mask features, each a token of n pixels, to one positive map of mean 1.

    H-SAM's public code normalises the map with a softmax over its channel axis, which has length 1: the map is 1
    everywhere and none of these parameters gets a gradient. Here the softmax runs over the positions, times their
    number, so that scores that are equal everywhere give exactly that constant map, and others redistribute it.
    ``constant`` reproduces the public code.

    Mask features are resized to ``side`` x ``side`` and the map back, so that the parameters do not grow with the
    input: 1,114,750 with 9 outputs and side 14. In training the features of rare classes get more noise than those
    of frequent ones (that is what balances the classes) and a tenth of them is dropped.
    """

    def __init__(self, num_outputs: int, *, side: int = SIDE, heads: int = HEADS, constant: bool = False) -> None:
        super().__init__()
        pixels = side * side
        self.side = side
        self.constant = constant
        self.self_attn1 = Attention(pixels, heads)
        self.norm1 = nn.LayerNorm(pixels)
        self.self_attn2 = Attention(pixels, heads)
        self.mlp = MLPBlock(pixels, MLP_DIM, nn.ReLU)
        self.norm2 = nn.LayerNorm(pixels)
        self.select = nn.Linear(num_outputs, 1)

    def forward(self, features: Tensor, target: Tensor | None = None) -> Tensor:
        """Mask features (B,K,g,g) to the map (B,1,g,g).

        ``target`` (B,H,W), label values with -1 for ignored pixels, says in training which classes are rare.
        """
        size = (self.side, self.side)
        tokens = functional.interpolate(features, size, mode="bilinear", align_corners=False)
        if self.training and not self.constant:
            tokens = drop(_with_noise(tokens, target), FEATURE_DROPOUT)
        scores = self._scores(tokens.flatten(2)).view(-1, 1, *size)
        if self.constant:
            attention = scores.softmax(dim=1)
        else:
            attention = scores.flatten(2).softmax(dim=2).view_as(scores) * scores[0].numel()
        return functional.interpolate(attention, features.shape[-2:], mode="bilinear", align_corners=False)

    def _scores(self, tokens: Tensor) -> Tensor:
        """(B,K,n) to (B,1,n); neither attention has a residual, as in H-SAM's code."""
        tokens = self.norm1(self.self_attn1(tokens, tokens, tokens))
        tokens = self.self_attn2(tokens, tokens, tokens)
        tokens = self.norm2(tokens + self.mlp(tokens))
        return self.select(tokens.transpose(1, 2)).relu().transpose(1, 2)


def _with_noise(features: Tensor, target: Tensor | None) -> Tensor:
    if target is None:
        return features
    share = noise_shares(target, features.shape[-1])[:, None].to(features.dtype)
    return features + normal_like(features) * share * _deviation(features)


def _deviation(features: Tensor) -> Tensor:
    """The standard deviation of all features of the batch; parts and ranks are joined as in Chan et al. (1983)."""
    fixed = features.detach()
    mean, count = fixed.mean(), fixed.numel()
    rows = gather_statistics(torch.stack((mean.new_full((), count), mean, (fixed - mean).square().sum())))
    if len(rows) == 1:
        return fixed.std()
    counts, means, squares = rows.unbind(1)
    away = means - (counts * means).sum() / counts.sum()
    return ((squares + counts * away.square()).sum() / (counts.sum() - 1)).sqrt()


def noise_shares(target: Tensor, side: int) -> Tensor:
    """How much noise each pixel gets: 0.35 in the rarest class of the batch, in equal steps to 0 in the most frequent.

    Args:
        target: (B,H,W) label values; pixels of -1 count for nothing and get none.
        side: of the map returned, (B,side,side) float32; its pixels are the nearest of the target.
    """
    small = functional.interpolate(target[:, None].float(), (side, side), mode="nearest-exact")[:, 0].long()
    found = gather_statistics(torch.bincount(small[small >= 0], minlength=_VALUES)).sum(dim=0)
    values = found.nonzero()[:, 0]
    counts = found[values]
    table = torch.zeros(int(values.max()) + 2 if len(values) else 1, device=target.device)
    steps = torch.linspace(0, RAREST_NOISE, len(values), device=target.device)
    table[values[counts.argsort(descending=True, stable=True)]] = steps
    return table[small]


TOKEN_DROPOUT = 0.2
"""on what the mask tokens read from the image, in training (H-SAM's code)"""


class MaskedCrossAttention(Attention):  # type: ignore[misc] # segment_anything has no types
    """H-SAM's learnable mask cross-attention: SAM's at full width, its weights multiplied by a soft mask.

    The product comes after the softmax and is not normalised again, so a map that the mask finds nowhere reads
    nothing. With a mask of ones it is SAM's attention.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Queries (B,n,P), keys and values (B,m,P) and a mask (B,n,m) in [0,1] to (B,n,P); B may be 1 in any."""
        projected = (self.q_proj(q), self.k_proj(k), self.v_proj(v))
        q, k, v = (self._separate_heads(part, self.num_heads) for part in projected)
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        mixed = (scores.softmax(dim=-1) * mask[:, None]) @ v
        return self.out_proj(self._recombine_heads(mixed))


class MaskedTwoWayBlock(nn.Module):
    """One layer of the second stage, run by ``cross_first``; its parts have the names of SAM's two-way block.

    ``first``: the layer whose self-attention replaces the tokens, as in SAM.
    """

    def __init__(self, dim: int, heads: int, mlp_dim: int, *, first: bool) -> None:
        super().__init__()
        self.self_attn = Attention(dim, heads)
        self.norm1 = nn.LayerNorm(dim)
        self.cross_attn_token_to_image = MaskedCrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLPBlock(dim, mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(dim)
        self.norm4 = nn.LayerNorm(dim)
        self.cross_attn_image_to_token = MaskedCrossAttention(dim, heads)
        self.skip_first_layer_pe = first


class MaskedTwoWayTransformer(nn.Module):
    """The transformer of the second stage: 3,817,088 parameters at SAM's sizes (width 256, 8 heads, 2 layers)."""

    def __init__(self, dim: int, *, depth: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            MaskedTwoWayBlock(dim, heads, mlp_dim, first=number == 0) for number in range(depth)
        )
        self.final_attn_token_to_image = Attention(dim, heads, downsample_rate=2)
        self.norm_final_attn = nn.LayerNorm(dim)

    def forward(self, image: Tensor, positions: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Image (B,P,g,g), positions (1,P,g,g), tokens (1,K,P) and mask (B,K,L) to tokens (B,K,P), image (B,L,P)."""
        dropout = TOKEN_DROPOUT if self.training else 0.0
        return cross_first(self, image, positions, tokens, mask=mask, dropout=dropout)


def cross_first(
    transformer: Any, image: Tensor, positions: Tensor, tokens: Tensor, *, mask: Tensor | None, dropout: float
) -> tuple[Tensor, Tensor]:
    """Run a two-way transformer in H-SAM's order: the tokens' cross-attention before their self-attention.

    Args:
        transformer: SAM's own (``mask`` None) or a ``MaskedTwoWayTransformer``.
        image: (B,P,g,g).
        positions: (1,P,g,g), added to the image wherever it is looked at.
        tokens: (1,T,P); they are their own positions.
        mask: (B,T,L), which weighs what each token reads of the image and what the image reads of each token.
        dropout: share of the tokens' cross-attention that is dropped.

    Returns:
        Tokens (B,T,P) and image (B,L,P).
    """
    keys, places, queries = _flat(image), _flat(positions), tokens
    to_image = () if mask is None else (mask,)
    to_tokens = () if mask is None else (mask.transpose(1, 2),)
    for layer in transformer.layers:
        read = layer.cross_attn_token_to_image(queries + tokens, keys + places, keys, *to_image)
        queries = layer.norm2(queries + drop(read, dropout))
        queries = layer.norm1(_among_tokens(layer, queries, tokens))
        queries = layer.norm3(queries + layer.mlp(queries))
        keys = layer.norm4(keys + layer.cross_attn_image_to_token(keys + places, queries + tokens, queries, *to_tokens))
    last = transformer.final_attn_token_to_image(queries + tokens, keys + places, keys)
    return transformer.norm_final_attn(queries + last), keys


def _among_tokens(layer: Any, queries: Tensor, tokens: Tensor) -> Tensor:
    """The tokens' self-attention, which in the first layer knows no positions and replaces them."""
    placed = queries if layer.skip_first_layer_pe else queries + tokens
    attended = layer.self_attn(placed, placed, queries)
    return attended if layer.skip_first_layer_pe else queries + attended


def _flat(maps: Tensor) -> Tensor:
    """(B,P,g,g) to (B,L,P)."""
    return torch.flatten(maps, 2).transpose(1, 2)
