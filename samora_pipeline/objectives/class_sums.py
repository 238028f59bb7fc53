"""The sums that cross-entropy and Dice are made of, with their gradient written out.

At input size the probabilities of a batch are hundreds of times larger than a network's logits; built from single
tensor operations the loss then moves more memory than the network itself. Here a sample is finished before the next one
is touched, so that it stays in the processor's cache, and nothing but the probabilities is kept for the gradient.

Shapes: B batch, K classes, h w pixels.
"""

from typing import Any

import torch
from torch import Tensor

IGNORED = -1


def class_sums(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sum over all pixels of a batch that are not ignored (target -1), with p the softmax over classes.

    Args:
        logits: (B,K,h,w), float32 or float64.
        target: (B,h,w) int64, class indices or -1.

    Returns:
        Cross-entropy, a scalar; p of the pixels of each class, (K,); squared p per class, (K,).
    """
    sums: Tensor = _ClassSums.apply(logits, target)
    classes = logits.shape[1]
    return sums[0], sums[1 : 1 + classes], sums[1 + classes :]


class _ClassSums(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, logits: Tensor, target: Tensor) -> Tensor:
        classes = logits.shape[1]
        probability = torch.empty_like(logits)
        sums = logits.new_zeros(1 + 2 * classes)
        overlap, squares = sums[1 : 1 + classes], sums[1 + classes :]
        for sample, labels, p in zip(logits, target, probability, strict=True):
            valid, safe = labels != IGNORED, labels.clamp(min=0)
            torch.softmax(sample, 0, out=p)
            own = p.gather(0, safe[None])[0] * valid
            entropy = sample.logsumexp(0) - sample.gather(0, safe[None])[0]
            sums[0] += (entropy * valid).sum()
            overlap.index_add_(0, safe.flatten(), own.flatten())
            squares += (p * valid).square().sum((1, 2))
        context.save_for_backward(probability, target)
        return sums

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        probability, target = context.saved_tensors
        classes = probability.shape[1]
        entropy, overlap, squares = gradients[0].tensor_split((1, 1 + classes))
        result = torch.empty_like(probability)
        for p, labels, out in zip(probability, target, result, strict=True):
            safe = labels.clamp(min=0)
            # The softmax's own derivative takes d loss / dp to d loss / d logits; cross-entropy adds p minus one-hot.
            slope = p * (2 * squares).view(-1, 1, 1)
            slope.scatter_add_(0, safe[None], overlap[safe][None])
            slope.sub_((p * slope).sum(0)).add_(entropy).mul_(p)
            slope.scatter_add_(0, safe[None], -entropy.expand_as(safe)[None])
            torch.mul(slope, labels != IGNORED, out=out)
        return result, None
