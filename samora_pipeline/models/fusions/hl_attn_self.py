"""HL-Attn with self-attention in front of each cross-attention: the other reading of SAMora's Fig. 3.

Its caption says that self-attention is not drawn, and the text (section 3.3) speaks of cross-attention alone. At half
the width the two attentions of a step have as many weights as the one of HL-Attn, so Table 3 cannot tell them apart.

Shapes: B batch, H W token grid, D width of the block, d = min(64, D) width inside, 8 heads.
"""

from __future__ import annotations

from torch import Tensor, nn

from samora_pipeline.models.fusions.hl_attn import CrossAttention
from samora_pipeline.models.fusions.stepwise import StepwiseFusion

WIDTH = 64


class SelfThenCross(nn.Module):
    """The higher level looks at itself, which is added to it, and then asks the lower level (Eq. 8).

    What it sees of itself shapes the question alone; the output is that of the cross-attention. 395,136 parameters
    for D = 768.
    """

    def __init__(self, dim: int, window: int, *, output_at_zero: bool) -> None:
        super().__init__()
        self.within = CrossAttention(dim, window, output_at_zero=False, largest=WIDTH)
        self.between = CrossAttention(dim, window, output_at_zero=output_at_zero, largest=WIDTH)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """``high`` and ``low`` (B,H,W,D) to (B,H,W,D)."""
        output: Tensor = self.between(high + self.within(high, high), low)
        return output


class SelfHLAttention(StepwiseFusion):
    """HL-Attn whose steps have self-attention too. 9,483,264 parameters on SAM ViT-B, HL-Attn has 9,464,832."""

    def make_step(self, dim: int, window: int, *, output_at_zero: bool) -> SelfThenCross:
        """Self-attention of the higher level, then one cross-attention."""
        return SelfThenCross(dim, window, output_at_zero=output_at_zero)
