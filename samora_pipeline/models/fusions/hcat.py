"""HCAT: HL-Attn's steps with the layers of a hierarchical cross-attention transformer (Table 10).

SAMora names HCAT without a citation. The layers are those of the tracker of that name (github.com/chenxin-dlut/HCAT):
cross-attention in both directions, each followed by a residual, a norm and a feed-forward network eight times as
wide, and no self-attention. Its dropout and its positions are left out: HL-Attn has neither, and tokens of an encoder
carry their positions.

Shapes: B batch, H W token grid, D width of the block, d = min(128, D) width inside.
"""

from torch import Tensor, nn

from samora_pipeline.models.fusions.hl_attn import attend, attention_width, normed, output_layer
from samora_pipeline.models.fusions.stepwise import StepwiseFusion

FEED_FORWARD_RATIO = 8


class CrossLayer(nn.Module):
    """One direction at width d: x + attention to y, norm, + feed-forward, norm (post-norm, ReLU)."""

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.attended = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, FEED_FORWARD_RATIO * width), nn.ReLU(), nn.Linear(FEED_FORWARD_RATIO * width, width)
        )
        self.fed = nn.LayerNorm(width)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` and ``y`` (B,H,W,d) to (B,H,W,d)."""
        x = self.attended(x + self.out(attend(self.q(x), self.k(y), self.v(y), self.window)))
        return self.fed(x + self.feed_forward(x))


class TwoWayStep(nn.Module):
    """The lower level attends to the higher one, then the higher level to what the lower one has become.

    Both are normalised without parameters and brought to width d first, as in HL-Attn; 955,648 parameters for D = 768.
    """

    def __init__(self, dim: int, window: int, *, output_at_zero: bool) -> None:
        super().__init__()
        width = attention_width(dim)
        self.high = nn.Linear(dim, width)
        self.low = nn.Linear(dim, width)
        self.downward = CrossLayer(width, window)
        self.upward = CrossLayer(width, window)
        self.out = output_layer(width, dim, at_zero=output_at_zero)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """``high`` and ``low`` (B,H,W,D) to (B,H,W,D)."""
        above, below = self.high(normed(high)), self.low(normed(low))
        below = self.downward(below, above)
        return self.out(self.upward(above, below))


class HCAT(StepwiseFusion):
    """HCAT: each step is a layer in both directions. 22.9 M parameters on SAM ViT-B, HL-Attn has 9.5 M."""

    make_step = TwoWayStep
