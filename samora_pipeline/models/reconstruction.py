"""The decoder of masked patches; thrown away after stage 1.

Shapes: B batch, g tokens along a side, D width of the last block's tokens, D0 width in front of the first block (D0 = D
but for Hiera), P pixels along a side of a patch, C channels.
"""

import torch
from torch import Tensor, nn

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
