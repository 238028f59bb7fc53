"""Attention by CUDA's fused kernels, shapes alone."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from tests.pretend_cuda.tensors import CudaTensor

REAL_ATTENTION = functional.scaled_dot_product_attention
_WIDEST_FLASH_HEAD = 256
aten = torch.ops.aten


def attention(
    q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False, **more: Any
) -> Any:
    """``scaled_dot_product_attention`` as a device that can do bf16 chooses it, by type, mask and width of a head.

    Without it torch looks for the device's properties, finds no driver, and takes the unfused way.
    """
    if not isinstance(q, CudaTensor) or more.get("enable_gqa"):
        return REAL_ATTENTION(q, k, v, attn_mask, dropout_p, is_causal, **more)
    q, k, v, attn_mask = _autocast(q, k, v, attn_mask)
    half, width, scale = q.dtype in (torch.bfloat16, torch.float16), q.shape[-1], more.get("scale")
    if attn_mask is None and half and width <= _WIDEST_FLASH_HEAD and v.shape[-1] == width:
        padded = [functional.pad(part, (0, -width % 8)) if width % 8 else part for part in (q, k, v)]
        scale = width**-0.5 if scale is None else scale
        flash = aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, False, scale=scale)
        return flash[0][..., :width]
    if any(part.shape[-1] % (8 if half else 4) for part in (q, v)):
        return REAL_ATTENTION(q, k, v, attn_mask, dropout_p, is_causal, **more)
    bias = None if attn_mask is None else _bias(attn_mask, q, k)
    wants = torch.is_grad_enabled() and any(part.requires_grad for part in (q, k, v))
    return aten._scaled_dot_product_efficient_attention(q, k, v, bias, wants, dropout_p, is_causal, scale=scale)[0]


def _autocast(q: Any, k: Any, v: Any, mask: Any) -> tuple[Any, Any, Any, Any]:
    if not torch.is_autocast_enabled("cuda"):
        return q, k, v, mask
    kind = torch.get_autocast_dtype("cuda")
    floats = mask is not None and mask.is_floating_point()
    return q.to(kind), k.to(kind), v.to(kind), mask.to(kind) if floats else mask


def _bias(mask: Any, q: Any, k: Any) -> Any:
    """A mask as the bias that the kernel takes: of the type of the queries, its rows aligned."""
    if mask.dtype == torch.bool:
        least = torch.full((), float("-inf"), dtype=q.dtype, device=q.device)
        mask = torch.where(mask, 0.0, least)
    length = mask.shape[-1]
    if length % 16:
        mask = functional.pad(mask, (0, -length % 16))[..., :length]
    return mask.expand(*q.shape[:-1], k.shape[-2])
