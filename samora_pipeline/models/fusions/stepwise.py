"""Fusions that join two levels at a time, in one of the orders of Table 4: HL-Attn and HCAT.

HL-Attn fuses the experts of a block step by step through cross-attention (SAMora, section 3.3, Eq. 6-8).
``SelfHLAttention`` is the other reading of Fig. 3, with self-attention in front of each cross-attention: its caption
says that self-attention is not drawn, and the text (section 3.3) speaks of cross-attention alone. At half the width
the two attentions of a step have as many weights as the one of HL-Attn, so Table 3 does not distinguish them.

SAMora names HCAT (Table 10) without a citation. The layers are those of the tracker of that name
(github.com/chenxin-dlut/HCAT): cross-attention in both directions, each followed by a residual, a norm and a
feed-forward network eight times as wide, and no self-attention. Its dropout and its positions are left out: HL-Attn has
neither, and tokens of an encoder carry their positions.

Shapes: B batch, H W token grid, D width of the block, E experts, d = min(128, D) width inside (64 with self-attention),
8 heads, n windows over the whole batch, h w tokens of one window.
"""

from typing import Any, ClassVar, Protocol

import torch
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.part_options import StepwiseOptions
from samora_pipeline.models.branch_products import reduced
from samora_pipeline.models.fusions.fusion import Fusion


class StepFactory(Protocol):
    """Makes one step: a module from the higher and the lower level, (B,H,W,D) each, to (B,H,W,D)."""

    def __call__(self, dim: int, window: int, *, output_at_zero: bool) -> nn.Module:
        """``dim`` and ``window`` as in ``Joining``."""


class StepwiseFusion(Fusion):
    """Hierarchical fusion of two or three levels.

    The query is always the higher level, and what comes out of a step keeps the level of its query. ``order`` gives
    the ranks of image, patch and pixel (Table 4): the two levels of rank 1 are fused first, then comes rank 2.

    - ``2-1-1``: patch attends to pixel; image attends to the result.
    - ``1-2-1``: image attends to pixel; the result (image) attends to patch.
    - ``1-1-2``: image attends to patch; the result (image) attends to pixel.

    With two levels there is one step. Residual ``delta``: the features are e_i = E_i - F and a step adds its query's
    e to its output, so that training starts from the highest expert. Residual ``paper``: the features are E_i, and
    a step's output is all (Eq. 6-8 as printed), so that training starts from the base. For either start, every
    step whose output reaches the block's output by additions alone begins with an output of zero: the last one
    and, with ``delta``, also the first where its result goes on as a query.

    Raises:
        ValueError: not two or three experts.
    """

    make_step: ClassVar[StepFactory]

    Options: ClassVar[type[Any]] = StepwiseOptions

    def __init__(self, options: StepwiseOptions, *, num_experts: int, dim: int, window: int) -> None:
        super().__init__(options, num_experts=num_experts, dim=dim, window=window)
        if num_experts not in (2, 3):
            raise ValueError(f"{type(self).__name__} fuses two or three experts, not {num_experts}")
        self.delta = options.residual == "delta"
        ranks = [int(rank) for rank in options.order.split("-")] if num_experts == 3 else [1, 1]
        self.high, self.low = (level for level, rank in enumerate(ranks) if rank == 1)
        self.late = ranks.index(2) if 2 in ranks else None
        result_is_query = self.late is not None and self.late > self.high
        first_at_zero = self.late is None or (self.delta and result_is_query)
        self.first = self.make_step(dim, window, output_at_zero=first_at_zero)
        self.second = None if self.late is None else self.make_step(dim, window, output_at_zero=True)

    def forward(self, base: Tensor, experts: Tensor) -> Tensor:
        """F (B,H,W,D) and E_i (E,B,H,W,D) to the fused signal (B,H,W,D)."""
        features = (experts - base if self.delta else experts).unbind()
        fused = self._step(self.first, features[self.high], features[self.low])
        if self.second is None or self.late is None:
            return fused
        late = features[self.late]
        return self._step(self.second, late, fused) if self.late < self.high else self._step(self.second, fused, late)

    def _step(self, step: nn.Module, high: Tensor, low: Tensor) -> Tensor:
        output = step(high, low)
        return high + output if self.delta else output


HEADS = 8
MAX_WIDTH, MAX_WIDTH_WITH_SELF = 128, 64
EPS = 1e-6


class CrossAttention(nn.Module):
    """Eq. 8 with eight heads: the higher level is the query, the lower level key and value.

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
        self.out = output_layer(width, dim, at_zero=output_at_zero)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """``high`` and ``low`` (B,H,W,D) to (B,H,W,D)."""
        query, key_value = reduced(normed(high)), reduced(normed(low))
        return self.out(attend(self.q(query), self.k(key_value), self.v(key_value), self.window))


class SelfThenCross(nn.Module):
    """Self-attention of the higher level, which is added to it, then cross-attention to the lower level (Eq. 8).

    The self-attention changes the query alone; the output is that of the cross-attention. 395,136 parameters for
    D = 768.
    """

    def __init__(self, dim: int, window: int, *, output_at_zero: bool) -> None:
        super().__init__()
        self.within = CrossAttention(dim, window, output_at_zero=False, largest=MAX_WIDTH_WITH_SELF)
        self.between = CrossAttention(dim, window, output_at_zero=output_at_zero, largest=MAX_WIDTH_WITH_SELF)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """``high`` and ``low`` (B,H,W,D) to (B,H,W,D)."""
        return self.between(high + self.within(high, high), low)


class HLAttention(StepwiseFusion):
    """HL-Attn: each step is one cross-attention. 9,464,832 parameters on SAM ViT-B."""

    make_step = CrossAttention


class SelfHLAttention(StepwiseFusion):
    """HL-Attn whose steps have self-attention too. 9,483,264 parameters on SAM ViT-B, HL-Attn has 9,464,832."""

    make_step = SelfThenCross


def attention_width(dim: int, largest: int = MAX_WIDTH) -> int:
    """The width inside a fusion of blocks of width ``dim``: at most ``largest``, and whole heads."""
    return min(largest, dim) // HEADS * HEADS


def normed(x: Tensor) -> Tensor:
    """LayerNorm over the last axis, without parameters."""
    return functional.layer_norm(x, x.shape[-1:], eps=EPS)


def output_layer(width: int, dim: int, *, at_zero: bool) -> nn.Linear:
    """The last layer of a step, whose output is zero at first with ``at_zero``."""
    out = nn.Linear(width, dim)
    if at_zero:
        nn.init.zeros_(out.weight)
        nn.init.zeros_(out.bias)
    return out


def attend(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Attention of q (B,H,W,d) to k and v of the same shape; ``window`` 0: everywhere.

    Otherwise it stays inside windows of so many tokens a side, and padding at the border is never attended to.
    """
    size = (q.shape[1], q.shape[2])
    if window == 0 or max(size) <= window:
        return _heads(q, k, v, None)
    whole = torch.ones(1, *size, 1, device=q.device)
    inside, padded = window_partition(whole, window)
    real = inside.flatten(1).bool().repeat(q.shape[0], 1)[:, None, None, :]
    q, k, v = (window_partition(part, window)[0] for part in (q, k, v))
    return window_unpartition(_heads(q, k, v, real), window, padded, size)


def _heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention over the tokens of each (n,h,w,d); ``mask`` (n,1,1,h*w) is true for keys that count."""
    n, h, w, d = q.shape
    q, k, v = (part.reshape(n, h * w, HEADS, d // HEADS).transpose(1, 2) for part in (q, k, v))
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed.transpose(1, 2).reshape(n, h, w, d)


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
