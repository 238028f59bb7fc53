"""Measures of features without labels: whether they have collapsed, what two networks share, what can be read off them.

Shapes: B slices, D width of a feature; C channels, N pixels along a side.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn import functional

LARGEST_PSNR = 100.0
"""dB; that of a mean squared error of 1e-10, below which float32 images are the same"""
_SMALLEST = 1e-12


class RestorationScores(NamedTuple):
    """Per slice: PSNR in dB, at most ``LARGEST_PSNR``, and SSIM against the clean slice."""

    psnr: list[float]
    ssim: list[float]


class Probe(NamedTuple):
    """How well something is read off the nearest neighbours of other cases, and how well without looking.

    For a class the share that is right, for a number in [0,1] the mean absolute error.
    """

    value: float
    chance: float


def spread(features: Tensor) -> float:
    """Standard deviation of L2-normalised features (B,D) per dimension, times sqrt(D): 1 is even, 0 is collapsed."""
    unit = functional.normalize(features.float(), dim=1)
    return float(unit.std(dim=0, correction=0).mean() * unit.shape[1] ** 0.5)


def effective_rank(features: Tensor) -> float:
    """RankMe (arXiv 2210.02885) of centred features (B,D): the exponential of the entropy of their singular values.

    Between 1 and min(B - 1, D).
    """
    values = torch.linalg.svdvals((features - features.mean(dim=0)).double())
    shares = values / values.sum().clamp(min=_SMALLEST)
    return float((-(shares * shares.clamp(min=_SMALLEST).log()).sum()).exp())


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance of partners on the unit sphere (arXiv 2005.10242); 0 is best, 2 is unrelated."""
    return float((functional.normalize(first, dim=1) - functional.normalize(second, dim=1)).square().sum(1).mean())


def uniformity(features: Tensor) -> float:
    """Log of the mean of exp(-2 d^2) over all pairs on the unit sphere (arXiv 2005.10242); lower is more even, 0 is
    collapsed.
    """
    unit = functional.normalize(features.double(), dim=1)
    return float(torch.pdist(unit).square().mul(-2).exp().mean().log()) if len(unit) > 1 else 0.0


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear CKA (arXiv 1905.00414) of features (B,D) and (B,D'): 1 the same up to rotation and scale, 0 unrelated."""
    x, y = (features.flatten(1).double() - features.flatten(1).double().mean(dim=0) for features in (first, second))
    # By the Gram matrices (B,B): panels are small and features wide.
    one, other = x @ x.T, y @ y.T
    norm = (one.norm() * other.norm()).clamp(min=_SMALLEST)
    return float((one * other).sum() / norm)


def class_probe(features: Tensor, classes: Sequence[str], groups: Sequence[str], neighbours: int = 3) -> Probe:
    """Read a class off the ``neighbours`` most similar features (cosine) of other groups; ties go to the nearest."""
    right = []
    for row, nearest in enumerate(_nearest(features, groups, neighbours)):
        votes = [classes[i] for i in nearest]
        right.append(bool(votes) and max(votes, key=votes.count) == classes[row])
    commonest = max(classes.count(name) for name in set(classes)) if classes else 0
    return Probe(_mean(right), commonest / max(1, len(classes)))


def number_probe(features: Tensor, numbers: Sequence[float], groups: Sequence[str], neighbours: int = 3) -> Probe:
    """Read a number off the ``neighbours`` most similar features of other groups; chance is the median of all."""
    errors = [
        abs(numbers[row] - sum(numbers[i] for i in nearest) / len(nearest))
        for row, nearest in enumerate(_nearest(features, groups, neighbours))
        if nearest
    ]
    middle = sorted(numbers)[len(numbers) // 2] if numbers else 0.0
    return Probe(_mean(errors), _mean([abs(number - middle) for number in numbers]))


def restoration_scores(images: Tensor, clean: Tensor) -> RestorationScores:
    """PSNR and SSIM of images (B,C,N,N), clipped to [0,1], against the clean ones (scikit-image)."""
    psnr, ssim = [], []
    for image, truth in zip(images.float().clamp(0, 1).cpu().numpy(), clean.float().cpu().numpy(), strict=True):
        same = float(np.square(truth - image).mean()) < 10 ** (-LARGEST_PSNR / 10)
        psnr.append(LARGEST_PSNR if same else float(peak_signal_noise_ratio(truth, image, data_range=1.0)))
        ssim.append(float(structural_similarity(truth, image, data_range=1.0, channel_axis=0)))
    return RestorationScores(psnr, ssim)


def _nearest(features: Tensor, groups: Sequence[str], neighbours: int) -> list[list[int]]:
    """Neighbours from nearest to farthest, never of the same group: slices of one scan are near copies."""
    unit = functional.normalize(features.flatten(1).float(), dim=1)
    similarity = unit @ unit.T
    rows = []
    for row in range(len(groups)):
        order = similarity[row].argsort(descending=True, stable=True).tolist()
        rows.append([i for i in order if groups[i] != groups[row]][:neighbours])
    return rows


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
