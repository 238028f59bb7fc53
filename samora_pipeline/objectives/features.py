"""Losses of stage 1 against images and teachers: masked patches, denoising and distillation, exact over ranks.

In distillation a student's projected features are drawn to a teacher's (Eq. 1), which are brought to one scale first.

Shapes: B batch (this rank's part), C channels, N pixels along a side, g = N / P patches along a side, P pixels along a
side of a patch; a patch is P P C numbers, channels innermost. Of a teacher's feature D is the width and g the side of
its grid, t the side of the student's; pooled it is (B,D), with a grid (B,g,g,D), for some visible tokens (B,K,D).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.distributed import sum_over_ranks

_EPSILON = 1e-6
_FLAT = 1e-3


def at_least_single(x: Tensor) -> Tensor:
    """Numbers in float32, or in float64 where they are: losses are never summed in half precision."""
    return x if x.dtype == torch.float64 else x.float()


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
    target = patches(at_least_single(images), side)
    variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
    weight = mask.float()
    if skip_flat:
        channels = target.reshape(*mask.shape, side * side, images.shape[1])
        weight = weight * (channels.std(dim=-2).amax(dim=-1) >= _FLAT)
    if normalised:
        target = (target - mean) / (variance + _EPSILON).sqrt()
    errors = (at_least_single(prediction) - target).square().mean(dim=-1)
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
    errors = (at_least_single(prediction) - at_least_single(target)).square()
    return global_mean(errors.sum(), errors.new_full((), errors.numel()))


def soft_dice(prediction: Tensor, target: Tensor) -> Tensor:
    """Return 1 - Dice of intensities in [0,1] over the global batch; any equal shapes.

    Appendix A.1 names a Dice loss beside MSE; for intensities it is 2 sum(p t) / (sum(p p) + sum(t t)).
    """
    p, t = at_least_single(prediction).clamp(0, 1), at_least_single(target)
    overlap, sizes = sum_over_ranks(torch.stack(((p * t).sum(), p.square().sum() + t.square().sum())))
    loss: Tensor = 1 - 2 * overlap / sizes.clamp(min=_EPSILON)
    return loss


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """Return a sum over this rank's elements, summed over ranks and divided by the number of all; scalars."""
    total, count = sum_over_ranks(torch.stack((total, count)))
    return total / count.clamp(min=1)


TargetScale = Literal["channel", "token", "none"]

_SMALLEST_DEVIATION = 1e-6


class ChannelStatistics(NamedTuple):
    """Mean and standard deviation of a teacher's feature, channel by channel, (D,) each."""

    mean: Tensor
    std: Tensor


class StatisticsFit:
    """Mean and deviation of each channel over a pool, gathered batch by batch in double precision.

    They are fitted once, after the teacher's own training, and frozen: the scale of pooled ReLU features is unknown
    beforehand, and statistics of single batches would let the target move.
    """

    def __init__(self, width: int) -> None:
        self._count = 0
        self._mean = torch.zeros(width, dtype=torch.float64)
        self._squares = torch.zeros(width, dtype=torch.float64)

    def add(self, features: Tensor) -> None:
        """Take in features (...,D) of one batch."""
        rows = features.detach().flatten(0, -2).cpu().double()
        if len(rows):
            mean = rows.mean(dim=0)
            self._merge(len(rows), mean, (rows - mean).square().sum(dim=0))

    def result(self, device: torch.device) -> ChannelStatistics:
        """The statistics over all ranks, float32 on ``device``; channels that never change get a deviation of 1.

        Raises:
            ValueError: nothing was added on any rank.
        """
        own = self._count * self._mean
        count = float(sum_over_ranks(torch.tensor([float(self._count)], device=device)))
        if not count:
            raise ValueError("statistics need at least one feature")
        mean = sum_over_ranks(own.to(device)) / count
        away = self._mean.to(device) - mean
        variance = sum_over_ranks(self._squares.to(device) + self._count * away.square()) / count
        std = variance.sqrt()
        flat = std <= _SMALLEST_DEVIATION * mean.abs().clamp(min=_SMALLEST_DEVIATION)
        return ChannelStatistics(mean.float(), torch.where(flat, torch.ones_like(std), std).float())

    def _merge(self, count: int, mean: Tensor, squares: Tensor) -> None:
        total = self._count + count
        away = mean - self._mean
        self._mean = self._mean + away * (count / total)
        self._squares = self._squares + squares + away.square() * (self._count * count / total)
        self._count = total


class DistillationTerms(NamedTuple):
    """The loss, and as a monitor the mean cosine between the student's and the teacher's vectors."""

    loss: Tensor
    cosine: Tensor


def scaled_target(features: Tensor, scale: TargetScale, statistics: ChannelStatistics | None = None) -> Tensor:
    """Bring a teacher's features (...,D) to the scale that the student learns, float32 and without gradient.

    Args:
        features: of the teacher.
        scale: ``channel`` standardises each channel with fixed statistics (image level), ``token`` is a LayerNorm
            without parameters (patch level, as Feature Distillation, arXiv 2205.14141), ``none`` is Eq. 1 literally.
        statistics: for ``channel``.

    Raises:
        ValueError: ``channel`` without statistics.
    """
    target = features.detach().float()
    if scale == "none":
        return target
    if scale == "token":
        return functional.layer_norm(target, target.shape[-1:])
    if statistics is None:
        raise ValueError("a target scaled by channel needs statistics")
    return (target - statistics.mean) / statistics.std


def on_grid(target: Tensor, side: int) -> Tensor:
    """A target on a grid (B,g,g,D), averaged to the side of the student's prediction where it is finer, (B,t,t,D).

    The reverse, a student's finer grid, is averaged before its projector
    (``models.pretraining_heads.DistillationHead``): a teacher's features are never made finer than they are.
    """
    if target.shape[1] <= side:
        return target
    return functional.adaptive_avg_pool2d(target.permute(0, 3, 1, 2), side).permute(0, 2, 3, 1)


def distillation(prediction: Tensor, target: Tensor) -> DistillationTerms:
    """Return the mean squared error over all elements of the global batch (Eq. 1, divided by the width), and cosine.

    Args:
        prediction: of the student's projector; (B,D), (B,t,t,D) or (B,K,D).
        target: of the same shape, from ``scaled_target``.

    Raises:
        ValueError: shapes that differ; broadcasting would hide a mistaken grid.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
    cosine = functional.cosine_similarity(prediction.detach().float(), target.float(), dim=-1)
    mean_cosine = global_mean(cosine.sum(), cosine.new_full((), cosine.numel()))
    return DistillationTerms(mean_squared_error(prediction, target), mean_cosine)
