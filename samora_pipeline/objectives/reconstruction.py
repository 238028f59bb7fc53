"""Reconstruction losses of the patch level (masked patches) and the pixel level (denoising), exact over ranks.

Shapes: B batch (this rank's part), C channels, N pixels along a side, g = N / P patches along a side, P pixels along a
side of a patch; a patch is P P C numbers, channels innermost.
"""

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
        skip_flat: leave out hidden patches in which every channel has a standard deviation below 1e-3, in the unit
            of ``images``. Normalised air is amplified noise; MAE has no such guard. Channel by channel, because
            channels that were shifted against each other differ even where nothing is to be seen.
    """
    side = images.shape[-1] // mask.shape[-1]
    target = patches(images.float(), side)
    variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
    weight = mask.float()
    if skip_flat:
        channels = target.reshape(*mask.shape, side * side, images.shape[1])
        weight = weight * (channels.std(dim=-2).amax(dim=-1) >= _FLAT)
    if normalised:
        target = (target - mean) / (variance + _EPSILON).sqrt()
    errors = (prediction.float() - target).square().mean(dim=-1)
    return global_mean((errors * weight).sum(), weight.sum())


def images_from(prediction: Tensor, images: Tensor, *, normalised: bool = True) -> Tensor:
    """Put predicted patches together to pictures, for viewing: (B,g,g,P*P*C) to (B,C,N,N), in the unit of ``images``.

    Where the target was normalised patch by patch, its mean and deviation are taken from ``images``: such a picture
    owes its overall brightness and contrast to the original, and only the detail to the prediction.
    """
    channels, size = images.shape[1:3]
    grid = prediction.shape[1]
    side = size // grid
    pixels = prediction.float()
    if normalised:
        variance, mean = torch.var_mean(patches(images.float(), side), dim=-1, keepdim=True)
        pixels = pixels * (variance + _EPSILON).sqrt() + mean
    rows = pixels.reshape(-1, grid, grid, side, side, channels).permute(0, 5, 1, 3, 2, 4)
    return rows.reshape(-1, channels, size, size)


def mean_squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error over all elements of the global batch (Eq. 1, divided by the width).

    Serves denoising (restored and clean image) and distillation (student and teacher features); any equal shapes.
    """
    errors = (prediction.float() - target.float()).square()
    return global_mean(errors.sum(), errors.new_tensor(errors.numel()))


def soft_dice(prediction: Tensor, target: Tensor) -> Tensor:
    """Return 1 - Dice of intensities in [0,1] over the global batch; any equal shapes.

    Appendix A.1 names a Dice loss beside MSE; for intensities it is 2 sum(p t) / (sum(p p) + sum(t t)).
    """
    p, t = prediction.float().clamp(0, 1), target.float()
    overlap, sizes = sum_over_ranks(torch.stack(((p * t).sum(), p.square().sum() + t.square().sum())))
    loss: Tensor = 1 - 2 * overlap / sizes.clamp(min=_EPSILON)
    return loss


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """Return a sum over this rank's elements, summed over ranks and divided by the number of all; scalars."""
    total, count = sum_over_ranks(torch.stack((total, count)))
    return total / count.clamp(min=1)
