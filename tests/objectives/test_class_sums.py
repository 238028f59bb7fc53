"""The sums and their written-out gradient, against finite differences and against autograd over single operations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.objectives.segmentation import class_sums


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 4, 3, 5, generator=generator, dtype=dtype) * 3
    target = torch.randint(-1, 3, (2, 3, 5), generator=generator)  # class 3 is absent, some pixels are ignored
    return logits.requires_grad_(), target


def plain_sums(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    valid = (target >= 0)[:, None]
    truth = functional.one_hot(target.clamp(min=0), logits.shape[1]).movedim(-1, 1) * valid
    probability = logits.softmax(1) * valid
    entropy = functional.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
    return entropy, (probability * truth).sum((0, 2, 3)), probability.square().sum((0, 2, 3))


def test_gradient_agrees_with_finite_differences() -> None:
    logits, target = batch()
    assert torch.autograd.gradcheck(lambda values: class_sums(values, target), (logits,))


def test_sums_and_gradient_agree_with_single_operations() -> None:
    logits, target = batch()
    weights = torch.linspace(0.5, 2.0, 4, dtype=torch.float64)
    gradients = []
    for function in (class_sums, plain_sums):
        entropy, overlap, squares = function(logits, target)
        loss = entropy - (weights * overlap).sum() / (1 + squares.sum())
        gradients.append(torch.autograd.grad(loss, logits)[0])
    for ours, theirs in zip(class_sums(logits, target), plain_sums(logits, target), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*gradients)


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([[[[1e4]], [[-1e4]]]], requires_grad=True)
    entropy, _, _ = class_sums(logits, torch.ones(1, 1, 1, dtype=torch.int64))
    entropy.backward()
    assert entropy.item() == 2e4
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.tensor([[[[1.0]], [[-1.0]]]]))


def test_a_batch_of_ignored_pixels_gives_zero_and_no_gradient() -> None:
    logits, _ = batch()
    entropy, overlap, squares = class_sums(logits, torch.full((2, 3, 5), -1))
    (entropy + overlap.sum() + squares.sum()).backward()
    assert entropy == 0
    assert logits.grad is not None
    assert not logits.grad.any()
