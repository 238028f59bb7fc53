"""HL-Attn: the experts of a block fused step by step through cross-attention (SAMora, section 3.3, Eq. 6-8).

Shapes: B batch, H W token grid, D width of the block, E experts, d = min(128, D) width inside, 8 heads.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.models.fusions.attention import MAX_WIDTH, attend, attention_width
from samora_pipeline.models.fusions.stepwise import StepwiseFusion

EPS = 1e-6


class CrossAttention(nn.Module):
    """Eq. 8 with eight heads: the higher level asks (Q), the lower level answers (K, V).

    Both inputs are normalised without parameters. With ``window`` the attention stays inside the windows of the
    block it belongs to; padding at the border is never attended to. ``largest`` bounds the width inside. 394,368
    parameters for D = 768.
    """

    def __init__(self, dim: int, window: int, *, output_at_zero: bool, largest: int = MAX_WIDTH) -> None:
        super().__init__()
        width = attention_width(dim, largest)
        self.window = window
        self.q = nn.Linear(dim, width)
        self.k = nn.Linear(dim, width)
        self.v = nn.Linear(dim, width)
        self.out = nn.Linear(width, dim)
        if output_at_zero:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """``high`` and ``low`` (B,H,W,D) to (B,H,W,D)."""
        asking = functional.layer_norm(high, high.shape[-1:], eps=EPS)
        answering = functional.layer_norm(low, low.shape[-1:], eps=EPS)
        output: Tensor = self.out(attend(self.q(asking), self.k(answering), self.v(answering), self.window))
        return output


class HLAttention(StepwiseFusion):
    """HL-Attn: each step is one cross-attention. 9,464,832 parameters on SAM ViT-B."""

    def make_step(self, dim: int, window: int, *, output_at_zero: bool) -> CrossAttention:
        """One cross-attention."""
        return CrossAttention(dim, window, output_at_zero=output_at_zero)
