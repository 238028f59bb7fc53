"""H-SAM's hierarchical pixel decoder: from the tokens of the second stage to maps of the input's size.

Shapes: B batch, P prompt width, K output maps, g side of the embedding grid, L = g g.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

HYPER_DEPTH = 5


class HierarchicalPixelDecoder(nn.Module):
    """Four doublings with a skip from the first stage in the middle, then one product per output map.

    Two doublings as in SAM (P to P/8 channels), the first stage's features at the same size beside them, two more
    (P/4 to P/16). What a map is looks from its token through five layers to P/16 weights. 2,489,856 parameters with
    P = 256 and 9 outputs.
    """

    def __init__(self, dim: int, num_outputs: int) -> None:
        super().__init__()
        self.upscaling = nn.Sequential(
            nn.ConvTranspose2d(dim, dim // 4, kernel_size=2, stride=2),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.joined = nn.Sequential(
            nn.ConvTranspose2d(dim // 4, dim // 8, kernel_size=2, stride=2),
            LayerNorm2d(dim // 8),
            nn.GELU(),
            nn.ConvTranspose2d(dim // 8, dim // 16, kernel_size=2, stride=2),
            LayerNorm2d(dim // 16),
            nn.GELU(),
        )
        self.hyper_mlps = nn.ModuleList(MLP(dim, dim, dim // 16, HYPER_DEPTH) for _ in range(num_outputs))

    def forward(self, image: Tensor, earlier: Tensor, tokens: Tensor) -> Tensor:
        """Image (B,P,g,g), features of stage 1 (B,P/8,4g,4g) and mask tokens (B,K,P) to logits (B,K,16g,16g)."""
        features = self.joined(torch.cat((self.upscaling(image), earlier), dim=1))
        weights = torch.stack([mlp(tokens[:, number]) for number, mlp in enumerate(self.hyper_mlps)], dim=1)
        return (weights @ features.flatten(2)).view(*weights.shape[:2], *features.shape[-2:])
