"""HL-Attn: the experts of a block fused step by step through cross-attention (SAMora, section 3.3, Eq. 6-8).

``SelfHLAttention`` is the other reading of Fig. 3, with self-attention in front of each cross-attention: its caption
says that self-attention is not drawn, and the text (section 3.3) speaks of cross-attention alone. At half the width
the two attentions of a step have as many weights as the one of HL-Attn, so Table 3 does not distinguish them.

Shapes: B batch, H W token grid, D width of the block, d = min(128, D) width inside (64 with self-attention), 8 heads,
n windows over the whole batch, h w tokens of one window.
"""

import torch
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.models.fusions.stepwise import StepwiseFusion

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
        query, key_value = normed(high), normed(low)
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
