"""The loss of soft labels: with hard ones that of ``segmentation_loss``, else a slow restatement."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.objectives.segmentation import segmentation_loss
from samora_pipeline.objectives.soft_labels import soft_segmentation_loss

WEIGHTS: dict[str, Any] = {"cross_entropy": 0.3, "dice": 0.7}


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(3, 4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)


def test_certain_soft_labels_are_labels(logits: torch.Tensor) -> None:
    target = torch.randint(4, (3, 6, 5), generator=torch.Generator().manual_seed(1))
    certain = functional.one_hot(target, 4).movedim(-1, 1).double()
    hard, soft = segmentation_loss(logits, target, **WEIGHTS), soft_segmentation_loss(logits, certain, **WEIGHTS)
    for ours, other in zip(soft, hard, strict=True):
        assert torch.allclose(ours, other, rtol=1e-12)
    ours, other = (torch.autograd.grad(each.loss, logits)[0] for each in (soft, hard))
    assert torch.allclose(ours, other, rtol=1e-9, atol=1e-12)


def test_certain_soft_labels_of_regions_are_regions(logits: torch.Tensor) -> None:
    scheme = LabelScheme({"a": (1, 2), "b": (2,), "c": (3,), "d": (1, 3)}, region_order=(1, 2, 3, 1))
    target = torch.randint(4, (3, 6, 5), generator=torch.Generator().manual_seed(1))
    masks = torch.from_numpy(scheme.region_masks())
    truth = masks[:, target].movedim(0, 1)
    hard = segmentation_loss(logits, target, **WEIGHTS, regions=masks)
    soft = soft_segmentation_loss(logits, truth, **WEIGHTS, exclusive=False)
    assert torch.allclose(soft.loss, hard.loss, rtol=1e-12)


def test_uncertain_soft_labels_pixel_by_pixel(logits: torch.Tensor) -> None:
    truth = torch.rand(3, 4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).softmax(1)
    entropy, pixels = 0.0, 0
    overlap, squares, squares_truth = np.zeros(4), np.zeros(4), np.zeros(4)
    for sample, wanted in zip(logits.detach().numpy(), truth.numpy(), strict=True):
        for row in range(6):
            for column in range(5):
                p, t = np.exp(sample[:, row, column]), wanted[:, row, column]
                p /= p.sum()
                entropy, pixels = entropy - float((t * np.log(p)).sum()), pixels + 1
                overlap, squares, squares_truth = overlap + p * t, squares + p * p, squares_truth + t * t
    dice = np.mean(1 - (2 * overlap + 1e-5) / (squares + squares_truth + 1e-5))
    found = soft_segmentation_loss(logits, truth, **WEIGHTS)
    assert float(found.loss.detach()) == pytest.approx(0.3 * entropy / pixels + 0.7 * dice, rel=1e-12)


def test_other_shapes_are_refused(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        soft_segmentation_loss(logits, torch.zeros(3, 3, 6, 5), **WEIGHTS)
