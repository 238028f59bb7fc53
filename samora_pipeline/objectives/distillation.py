"""Distillation: a student's projected features are drawn to a teacher's (Eq. 1), which are brought to one scale first.

Shapes: B batch (this rank's part), D width of the teacher's feature, g side of its grid, t side of the student's; a
pooled feature is (B,D), one with a grid (B,g,g,D), one of some visible tokens (B,K,D).
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.distributed import sum_over_ranks
from samora_pipeline.objectives.reconstruction import global_mean, mean_squared_error

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

    The reverse, a student's finer grid, is averaged before its projector (``models.projector.DistillationHead``):
    a teacher's features are never made finer than they are.
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
    mean_cosine = global_mean(cosine.sum(), cosine.new_tensor(cosine.numel()))
    return DistillationTerms(mean_squared_error(prediction, target), mean_cosine)
