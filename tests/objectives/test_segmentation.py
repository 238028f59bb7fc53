"""Cross-entropy and Dice against a literal restatement, pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import ndimage
from torch import Tensor

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.objectives.segmentation import low_resolution, segmentation_loss, stage_weights


def pixels(target: Tensor) -> list[tuple[int, int, int]]:
    batch, rows, columns = target.shape
    return [(b, i, j) for b in range(batch) for i in range(rows) for j in range(columns) if target[b, i, j] != -1]


def slow_softmax_terms(logits: Tensor, target: Tensor) -> tuple[float, float]:
    """CE and Dice as SAMed's code defines them, with ignored pixels left out."""
    classes = logits.shape[1]
    entropy, sums = 0.0, [[0.0, 0.0, 0.0] for _ in range(classes)]
    for b, i, j in pixels(target):
        exponents = [math.exp(float(logits[b, k, i, j])) for k in range(classes)]
        for k in range(classes):
            p, g = exponents[k] / sum(exponents), float(int(target[b, i, j]) == k)
            entropy -= g * math.log(p)
            for position, value in enumerate((p * g, p * p, g * g)):
                sums[k][position] += value
    dice = [1 - (2 * pg + 1e-5) / (pp + gg + 1e-5) for pg, pp, gg in sums]
    return entropy / max(1, len(pixels(target))), sum(dice) / classes


def slow_region_terms(logits: Tensor, target: Tensor, members: list[set[int]]) -> tuple[float, float]:
    entropy, dice = 0.0, 0.0
    for k, values in enumerate(members):
        pg = pp = gg = 0.0
        for b, i, j in pixels(target):
            p, g = 1 / (1 + math.exp(-float(logits[b, k, i, j]))), float(int(target[b, i, j]) in values)
            entropy -= math.log(p) if g else math.log(1 - p)
            pg, pp, gg = pg + p * g, pp + p * p, gg + g * g
        dice += 1 - (2 * pg + 1e-5) / (pp + gg + 1e-5)
    return entropy / (len(pixels(target)) * len(members)), dice / len(members)


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_classes_match_the_literal_sums(ignored: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 6, generator=generator) * 2
    target = torch.randint(0, 3, (3, 5, 6), generator=generator)  # class 3 is absent
    target[torch.rand(3, 5, 6, generator=generator) < ignored] = -1
    terms = segmentation_loss(logits, target, cross_entropy=0.2, dice=0.8)
    entropy, dice = slow_softmax_terms(logits, target)
    assert float(terms.cross_entropy) == pytest.approx(entropy, rel=1e-5, abs=1e-7)
    assert float(terms.dice) == pytest.approx(dice, rel=1e-5, abs=1e-7)
    assert float(terms.loss) == pytest.approx(0.2 * entropy + 0.8 * dice, rel=1e-5, abs=1e-7)


def test_regions_match_the_literal_sums() -> None:
    scheme = LabelScheme({"whole": (1, 2), "core": (2,)}, ignore=3, region_order=(1, 2))
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 2, 5, 6, generator=generator)
    raw = torch.randint(0, 4, (2, 5, 6), generator=generator)
    target = torch.from_numpy(scheme.encode(raw.numpy()))
    regions = torch.from_numpy(scheme.region_masks())
    terms = segmentation_loss(logits, target, cross_entropy=1.0, dice=1.0, regions=regions)
    entropy, dice = slow_region_terms(logits, target, [{1, 2}, {2}])
    assert float(terms.cross_entropy) == pytest.approx(entropy, rel=1e-5)
    assert float(terms.dice) == pytest.approx(dice, rel=1e-5)


@pytest.mark.parametrize("regions", [None, torch.tensor([[False, True, True], [False, False, True]])])
def test_ignored_pixels_have_no_gradient_and_no_say(regions: Tensor | None) -> None:
    logits = torch.randn(2, 2, 4, 4, requires_grad=True)
    target = torch.randint(0, 2, (2, 4, 4))
    target[:, :2] = -1
    loss = segmentation_loss(logits, target, cross_entropy=0.2, dice=0.8, regions=regions).loss
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad[:, :, :2].any()
    assert logits.grad[:, :, 2:].abs().min() > 0
    changed = logits.detach().clone()
    changed[:, :, :2] += 7
    assert float(segmentation_loss(changed, target, cross_entropy=0.2, dice=0.8, regions=regions).loss) == loss.item()


def test_certain_and_right_costs_nothing_and_half_precision_is_computed_in_full() -> None:
    target = torch.randint(0, 3, (2, 8, 8))
    logits = (torch.nn.functional.one_hot(target, 3).movedim(-1, 1) * 60.0).bfloat16()
    terms = segmentation_loss(logits, target, cross_entropy=0.2, dice=0.8)
    assert terms.loss.dtype == torch.float32
    assert float(terms.loss) == pytest.approx(0, abs=1e-6)


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        segmentation_loss(torch.zeros(1, 2, 4, 4), torch.zeros(1, 8, 8, dtype=torch.int64), cross_entropy=1, dice=1)


@pytest.mark.parametrize(("old", "new"), [((8, 8), (2, 2)), ((7, 9), (3, 4)), ((3, 4), (7, 9)), ((14, 14), (14, 14))])
def test_low_resolution_is_nearest_between_pixel_centres(old: tuple[int, int], new: tuple[int, int]) -> None:
    target = torch.randint(-1, 9, (2, *old))
    small = low_resolution(target, new)
    assert small.shape == (2, *new)
    assert small.dtype == torch.int64
    for i in range(new[0]):
        for j in range(new[1]):
            row, column = math.floor((i + 0.5) * old[0] / new[0]), math.floor((j + 0.5) * old[1] / new[1])
            assert torch.equal(small[:, i, j], target[:, row, column])


def test_low_resolution_does_not_shift_objects() -> None:
    target = torch.zeros(1, 224, 224, dtype=torch.int64)
    target[0, 61:140, 33:100] = 1
    small = low_resolution(target, (56, 56))[0]
    centre = [(position + 0.5) * 4 - 0.5 for position in ndimage.center_of_mass(small.numpy())]
    assert centre == pytest.approx(ndimage.center_of_mass(target[0].numpy()), abs=2.0)


def test_the_first_stage_fades_as_in_h_sams_300_epochs() -> None:
    for epoch, first in ((0, 0.400), (10, 0.370), (20, 0.342), (30, 0.315), (100, 0.171), (200, 0.066), (299, 0.025)):
        assert stage_weights(2, epoch, 300) == pytest.approx((first, 1 - first), abs=6e-4)


def test_the_fading_is_as_long_as_the_run() -> None:
    assert stage_weights(2, 0, 30) == pytest.approx((0.4, 0.6))
    for epoch in (1, 7, 29):
        assert stage_weights(2, epoch, 30) == pytest.approx(stage_weights(2, 10 * epoch, 300))


def test_one_stage_has_all_the_weight_and_three_are_not_known() -> None:
    assert stage_weights(1, 5, 20) == (1.0,)
    with pytest.raises(ValueError, match="3 stages"):
        stage_weights(3, 0, 20)
