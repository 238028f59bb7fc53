"""The operations that only CUDA has, for batch norms over ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.float(), _axes(x), correction=0)
    return mean, (variance + eps).rsqrt()


def _gather(
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
    counts: Tensor,
) -> tuple[Tensor, Tensor]:
    variance = invstd.float().square().reciprocal() - eps
    weight = counts.float()[:, None]
    total = weight.sum()
    common = (mean.float() * weight).sum(0) / total
    spread = ((variance + (mean.float() - common).square()) * weight).sum(0) / total
    if running_mean is not None and running_var is not None:
        running_mean.mul_(1 - momentum).add_(momentum * common.to(running_mean.dtype))
        running_var.mul_(1 - momentum).add_(momentum * (spread * total / (total - 1)).to(running_var.dtype))
    return common, (spread + eps).rsqrt()


def _elemt(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, invstd: Tensor, eps: float) -> Tensor:
    shape = _shape(x)
    y = (x.float() - mean.view(shape)) * invstd.view(shape)
    if weight is not None:
        y = y * weight.float().view(shape)
    if bias is not None:
        y = y + bias.float().view(shape)
    return y.to(x.dtype)


def _backward_reduce(
    grad: Tensor, x: Tensor, mean: Tensor, invstd: Tensor, weight: Tensor | None, *wanted: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g, away = grad.float(), x.float() - mean.view(_shape(x))
    sum_dy, sum_dy_xmu = g.sum(_axes(x)), (g * away).sum(_axes(x))
    own = torch.float32 if weight is None else weight.dtype
    return sum_dy, sum_dy_xmu, (sum_dy_xmu * invstd).to(own), sum_dy.to(own)


def _backward_elemt(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    sum_dy: Tensor,
    sum_dy_xmu: Tensor,
    count: Tensor,
) -> Tensor:
    shape, total = _shape(x), count.sum().float()
    scale = 1.0 if weight is None else weight.float().view(shape)
    inv = invstd.view(shape)
    away = x.float() - mean.view(shape)
    g = grad.float() - (sum_dy / total).view(shape) - away * inv.square() * (sum_dy_xmu / total).view(shape)
    return (g * inv * scale).to(x.dtype)


def _axes(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def _shape(x: Tensor) -> list[int]:
    return [1, -1] + [1] * (x.ndim - 2)


REFERENCES: dict[str, Callable[..., Any]] = {
    "batch_norm_stats": _stats,
    "batch_norm_gather_stats_with_counts": _gather,
    "batch_norm_elemt": _elemt,
    "batch_norm_backward_reduce": _backward_reduce,
    "batch_norm_backward_elemt": _backward_elemt,
}
