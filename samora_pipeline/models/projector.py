"""The heads on a student's tokens, for the contrastive loss and for distillation; thrown away after stage 1.

Shapes: B batch, g tokens along a side, D encoder width, D' width and t side of a teacher's feature.
"""

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
