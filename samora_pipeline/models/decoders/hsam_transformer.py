"""Two-way transformers of H-SAM (CVPR 2024): tokens look at the image first, then at each other; masks guide stage 2.

Shapes: B batch, K mask tokens (one per output map), T tokens (K, in stage 1 one more), L = g g image tokens, P width.
"""

import math
from typing import Any

import torch
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional

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
        queries = layer.norm2(queries + functional.dropout(read, dropout, training=dropout > 0))
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
