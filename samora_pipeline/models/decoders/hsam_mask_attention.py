"""H-SAM's class-balanced, mask-guided self-attention: where in the image the second stage looks harder.

Shapes: B batch, K output maps, g side of the embedding grid, s side of the mask features inside, n = s s.
"""

import torch
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional

SIDE = 14
HEADS = 7
MLP_DIM = 2048
FEATURE_DROPOUT = 0.1
RAREST_NOISE = 0.35
"""noise on the rarest class of a batch, in standard deviations of the features; H-SAM's code lists .35 to 0"""


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
            tokens = functional.dropout(_with_noise(tokens, target), FEATURE_DROPOUT)
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
    return features + torch.randn_like(features) * share * features.detach().std()


def noise_shares(target: Tensor, side: int) -> Tensor:
    """How much noise each pixel gets: 0.35 in the rarest class of the batch, in equal steps to 0 in the most frequent.

    Args:
        target: (B,H,W) label values; pixels of -1 count for nothing and get none.
        side: of the map returned, (B,side,side) float32; its pixels are the nearest of the target.
    """
    small = functional.interpolate(target[:, None].float(), (side, side), mode="nearest-exact")[:, 0].long()
    values, counts = torch.unique(small[small >= 0], return_counts=True)
    table = torch.zeros(int(values.max()) + 2 if len(values) else 1, device=target.device)
    steps = torch.linspace(0, RAREST_NOISE, len(values), device=target.device)
    table[values[counts.argsort(descending=True, stable=True)]] = steps
    return table[small]
