"""Multi-head attention between two token grids of one block, inside the block's windows.

Shapes: B batch, H W token grid, d width, 8 heads, n windows over the whole batch, h w tokens of one window.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor
from torch.nn import functional

HEADS = 8
MAX_WIDTH = 128


def attention_width(dim: int, largest: int = MAX_WIDTH) -> int:
    """The width inside a fusion of blocks of width ``dim``: at most ``largest``, and whole heads."""
    return min(largest, dim) // HEADS * HEADS


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
    joined: Tensor = window_unpartition(_heads(q, k, v, real), window, padded, size)
    return joined


def _heads(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention over the tokens of each (n,h,w,d); ``mask`` (n,1,1,h*w) is true for keys that count."""
    n, h, w, d = q.shape
    q, k, v = (part.reshape(n, h * w, HEADS, d // HEADS).transpose(1, 2) for part in (q, k, v))
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed.transpose(1, 2).reshape(n, h, w, d)
