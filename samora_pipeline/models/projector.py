"""The head that the contrastive loss is computed on; it is thrown away after stage 1.

Shapes: B batch, g tokens along a side, D encoder width.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

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
        embeddings: Tensor = self.layers(pooled)
        return embeddings
