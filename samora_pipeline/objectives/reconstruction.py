"""Reconstruction losses of the patch level (masked patches) and the pixel level (denoising), exact over ranks.

Shapes: B batch (this rank's part), C channels, N pixels along a side, g = N / P patches along a side, P pixels along a
side of a patch; a patch is P P C numbers, channels innermost.
"""

from __future__ import annotations

import torch
from torch import Tensor

from samora_pipeline.distributed import sum_over_ranks

_EPSILON = 1e-6
_FLAT = 1e-3


def patches(images: Tensor, side: int) -> Tensor:
    """Cut images (B,C,N,N) into patches (B,g,g,P*P*C), ``side`` = P pixels along a side."""
    batch, channels, size, _ = images.shape
    grid = size // side
    cut = images.reshape(batch, channels, grid, side, grid, side)
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3)


def masked_reconstruction(
    prediction: Tensor, images: Tensor, mask: Tensor, *, normalised: bool = True, skip_flat: bool = False
) -> Tensor:
    """Return the mean squared error over hidden patches of the global batch (MAE, arXiv 2111.06377).

    Args:
        prediction: (B,g,g,P*P*C).
        images: (B,C,N,N), the clean images.
        mask: (B,g,g) bool, true where the patch was hidden; visible patches carry no loss.
        normalised: compare with patches normalised by their own mean and unbiased variance (+ 1e-6), as in MAE.
        skip_flat: leave out hidden patches whose standard deviation is below 1e-3. Normalised air is amplified
            noise; MAE has no such guard.
    """
    side = images.shape[-1] // mask.shape[-1]
    target = patches(images.float(), side)
    variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
    weight = mask.float()
    if skip_flat:
        weight = weight * (variance[..., 0].sqrt() >= _FLAT)
    if normalised:
        target = (target - mean) / (variance + _EPSILON).sqrt()
    errors = (prediction.float() - target).square().mean(dim=-1)
    return _global_mean((errors * weight).sum(), weight.sum())


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error over all elements of the global batch (Eq. 1, divided by the width).

    Serves denoising (restored and clean image) and distillation (student and teacher features); any equal shapes.
    """
    errors = (prediction.float() - target.float()).square()
    return _global_mean(errors.sum(), errors.new_tensor(errors.numel()))


def _global_mean(total: Tensor, count: Tensor) -> Tensor:
    total, count = sum_over_ranks(torch.stack((total, count)))
    return total / count.clamp(min=1)
