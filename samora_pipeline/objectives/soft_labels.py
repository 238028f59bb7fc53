"""Cross-entropy and Dice against probabilities instead of labels: what a student learns from its teachers.

With probabilities of 0 and 1 both are those of ``objectives.segmentation``. Soft targets for segmentation as in
knowledge distillation (Hinton et al., arXiv 1503.02531), at temperature 1.

Shapes: B batch (this rank's part), K output maps, h w pixels of the logits.
"""

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.distributed import sum_over_ranks
from samora_pipeline.objectives.features import at_least_single
from samora_pipeline.objectives.segmentation import SegmentationTerms, terms_of_sums


def soft_segmentation_loss(
    logits: Tensor, truth: Tensor, *, cross_entropy: float, dice: float, exclusive: bool = True
) -> SegmentationTerms:
    """Return ``cross_entropy`` x CE + ``dice`` x Dice of the global batch against probabilities.

    Args:
        logits: (B,K,h,w).
        truth: (B,K,h,w) in [0,1]; of ``exclusive`` classes they sum to 1.
        cross_entropy: weight of the first term.
        dice: weight of the second term.
        exclusive: softmax over classes; otherwise every map is a sigmoid of its own.

    Raises:
        ValueError: logits and probabilities of different shapes.
    """
    if logits.shape != truth.shape:
        raise ValueError(f"probabilities of shape {tuple(truth.shape)} do not fit logits {tuple(logits.shape)}")
    logits = at_least_single(logits)
    truth = truth.to(logits.dtype)
    if exclusive:
        probability, entropies = logits.softmax(1), -(truth * logits.log_softmax(1))
        count = logits[:, 0].numel()
    else:
        probability = logits.sigmoid()
        entropies = functional.binary_cross_entropy_with_logits(logits, truth, reduction="none")
        count = logits.numel()
    head = torch.stack((entropies.sum(), logits.new_tensor(float(count))))
    products = (probability * truth, probability.square(), truth.square())
    sums = torch.cat((head, *(product.sum((0, 2, 3)) for product in products)))
    return terms_of_sums(sum_over_ranks(sums), cross_entropy=cross_entropy, dice=dice)
