"""Cross-entropy and Dice of the labelled stage (SAMora, Eq. 9), exact over ranks.

Both terms are ratios of sums over all pixels of the global batch, so the sums are added over ranks before the division.

Shapes: B batch (this rank's part), K output maps (classes with background first, or regions), h w pixels of the logits,
V label values.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.distributed import sum_over_ranks

IGNORED = -1
_SMOOTH = 1e-5


class SegmentationTerms(NamedTuple):
    """The weighted loss and its two parts, scalars in float32; only ``loss`` is meant to be differentiated."""

    loss: Tensor
    cross_entropy: Tensor
    dice: Tensor


def segmentation_loss(
    logits: Tensor, target: Tensor, *, cross_entropy: float, dice: float, regions: Tensor | None = None
) -> SegmentationTerms:
    """Return ``cross_entropy`` x CE + ``dice`` x Dice for the global batch (Eq. 9 has 0.2 and 0.8).

    CE is unweighted, the mean over all pixels. Dice is that of SAMed's code: background is a class like the others,
    sums run over the whole batch per class, the denominator is squared, and the classes are averaged. Ignored pixels
    (target -1) count in neither; a batch of nothing else has loss 0. With regions, each map is a sigmoid of its own:
    binary CE, the mean over pixels and regions, and Dice per region.

    Args:
        logits: (B,K,h,w).
        target: (B,h,w) int64, class indices; with ``regions`` the label values.
        cross_entropy: weight of the first term.
        dice: weight of the second term.
        regions: (K,V) bool, true where a label value belongs to a region (``LabelScheme.region_masks``).

    Raises:
        ValueError: target and logits differ in size (``low_resolution`` makes them equal).
    """
    if logits.shape[0] != target.shape[0] or logits.shape[2:] != target.shape[1:]:
        raise ValueError(f"a target of shape {tuple(target.shape)} does not fit logits {tuple(logits.shape)}")
    logits = logits.float()
    valid = target != IGNORED
    truth = _one_hot(target.clamp(min=0), logits.shape[1], regions) * valid[:, None]
    if regions is None:
        probability = logits.softmax(dim=1) * valid[:, None]
        entropies = functional.cross_entropy(logits, target, ignore_index=IGNORED, reduction="none")
        terms = valid.sum()
    else:
        probability = logits.sigmoid() * valid[:, None]
        entropies = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none") * valid[:, None]
        terms = valid.sum() * logits.shape[1]
    sums = torch.cat(
        (torch.stack((entropies.sum(), terms.float())), _class_sums(probability, truth).flatten())
    )  # one vector, so that ranks exchange one message
    total = sum_over_ranks(sums)
    entropy = total[0] / total[1].clamp(min=1)
    overlap, squares, squares_truth = total[2:].chunk(3)
    overlaps = 1 - (2 * overlap + _SMOOTH) / (squares + squares_truth + _SMOOTH)
    score = overlaps.mean()
    return SegmentationTerms(cross_entropy * entropy + dice * score, entropy.detach(), score.detach())


def low_resolution(target: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a target (B,H,W) to ``size`` by nearest neighbour between pixel centres, without interpolating values."""
    rows, columns = (
        ((torch.arange(new, device=target.device) + 0.5) * old / new).long()
        for new, old in zip(size, target.shape[1:], strict=True)
    )
    return target[:, rows[:, None], columns]


def _one_hot(target: Tensor, outputs: int, regions: Tensor | None) -> Tensor:
    if regions is None:
        return functional.one_hot(target, outputs).movedim(-1, 1).float()
    return regions.to(target.device)[:, target].movedim(0, 1).float()


def _class_sums(probability: Tensor, truth: Tensor) -> Tensor:
    """Sums over batch and pixels of p g, p p and g g: (3,K)."""
    pixels = (0, 2, 3)
    return torch.stack(
        ((probability * truth).sum(pixels), probability.square().sum(pixels), truth.square().sum(pixels))
    )
