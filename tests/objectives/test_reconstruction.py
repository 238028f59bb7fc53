"""Masked reconstruction and denoising against literal loops."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch import Tensor

from samora_pipeline.objectives.features import (
    images_from,
    masked_reconstruction,
    mean_squared_error,
    patches,
    soft_dice,
)


def slow_masked(prediction: Tensor, images: Tensor, mask: Tensor, normalised: bool, skip_flat: bool) -> float:
    side = images.shape[-1] // mask.shape[-1]
    errors = []
    for b, row, column in mask.nonzero().tolist():
        patch = images[b, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
        values = [float(patch[c, i, j]) for i in range(side) for j in range(side) for c in range(patch.shape[0])]
        mean = sum(values) / len(values)
        variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
        channels = [[float(value) for value in channel.flatten()] for channel in patch]
        if skip_flat and max(statistics.stdev(channel) for channel in channels) < 1e-3:
            continue
        if normalised:
            values = [(value - mean) / (variance + 1e-6) ** 0.5 for value in values]
        guess = prediction[b, row, column].tolist()
        errors.append(sum((g - v) ** 2 for g, v in zip(guess, values, strict=True)) / len(values))
    return sum(errors) / max(1, len(errors))


@pytest.mark.parametrize("skip_flat", [False, True])
@pytest.mark.parametrize("normalised", [False, True])
def test_masked_reconstruction_matches_the_loops(normalised: bool, skip_flat: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 2, 12, 12, generator=generator)
    images[0, :, :4, :4] = 0.2  # flat, and hidden
    mask = torch.rand(2, 3, 3, generator=generator) < 0.6
    mask[0, 0, 0] = True
    prediction = torch.randn(2, 3, 3, 4 * 4 * 2, generator=generator)
    loss = masked_reconstruction(prediction, images, mask, normalised=normalised, skip_flat=skip_flat)
    assert float(loss) == pytest.approx(slow_masked(prediction, images, mask, normalised, skip_flat), rel=1e-5)


@pytest.mark.parametrize("normalised", [False, True])
def test_lightlys_parts_give_the_same_loss(normalised: bool) -> None:
    lightly = pytest.importorskip("lightly.models.utils", reason="lightly is not installed")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 16, 16, generator=generator)
    _, hidden = lightly.random_token_mask((3, 17), mask_ratio=0.75)
    prediction = torch.randn(3, 4, 4, 48, generator=generator, requires_grad=True)
    targets = lightly.get_at_index(lightly.patchify(images, 4), hidden - 1)
    if normalised:
        targets = lightly.normalize_mean_var(targets)
    expected = torch.nn.functional.mse_loss(lightly.get_at_index(prediction.flatten(1, 2), hidden - 1), targets)
    mask = torch.zeros(3, 16, dtype=torch.bool).scatter(1, hidden - 1, True).view(3, 4, 4)
    loss = masked_reconstruction(prediction, images, mask, normalised=normalised)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(value, prediction)[0] for value in (loss, expected)]
    torch.testing.assert_close(*gradients)


def test_visible_patches_have_no_gradient() -> None:
    prediction = torch.randn(2, 3, 3, 16, requires_grad=True)
    mask = torch.rand(2, 3, 3) < 0.5
    masked_reconstruction(prediction, torch.rand(2, 1, 12, 12), mask).backward()
    assert prediction.grad is not None
    assert torch.equal(prediction.grad.abs().sum(-1) > 0, mask)


def test_the_guard_removes_what_air_adds() -> None:
    images = torch.rand(1, 1, 8, 8)
    images[..., :4] = torch.rand(8, 4) * 1e-6
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    prediction = torch.zeros(1, 2, 2, 16)
    body = torch.tensor([[[False, True], [False, True]]])
    guarded = masked_reconstruction(prediction, images, mask, skip_flat=True)
    assert torch.equal(guarded, masked_reconstruction(prediction, images, body))
    assert not torch.equal(guarded, masked_reconstruction(prediction, images, mask))


def test_the_guard_looks_at_each_channel() -> None:
    """Air is flat although the statistics of a teacher's input shift its channels apart."""
    images = torch.tensor([-2.1, -2.0, -1.8]).view(1, 3, 1, 1).expand(1, 3, 8, 8).clone()
    images[..., 4:] += torch.rand(1, 1, 8, 4)
    mask = torch.ones(1, 2, 2, dtype=torch.bool)
    body = torch.tensor([[[False, True], [False, True]]])
    prediction = torch.zeros(1, 2, 2, 48)
    guarded = masked_reconstruction(prediction, images, mask, skip_flat=True)
    assert torch.equal(guarded, masked_reconstruction(prediction, images, body))


@pytest.mark.parametrize("normalised", [False, True])
def test_a_perfect_prediction_gives_the_picture_back(normalised: bool) -> None:
    images = torch.rand(2, 3, 12, 12)
    target = patches(images, 4)
    if normalised:
        variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
        target = (target - mean) / (variance + 1e-6).sqrt()
    assert float(masked_reconstruction(target, images, torch.ones(2, 3, 3).bool(), normalised=normalised)) < 1e-9
    torch.testing.assert_close(images_from(target, images, normalised=normalised), images)


def test_nothing_hidden_costs_nothing() -> None:
    loss = masked_reconstruction(torch.randn(1, 2, 2, 16), torch.rand(1, 1, 8, 8), torch.zeros(1, 2, 2).bool())
    assert float(loss) == 0.0


def test_patches_are_rows_of_pixels_with_channels_innermost() -> None:
    images = torch.arange(2 * 6 * 6).view(1, 2, 6, 6)
    cut = patches(images, 3)
    assert cut.shape == (1, 2, 2, 18)
    expected = [int(images[0, c, 3 + i, j]) for i in range(3) for j in range(3) for c in range(2)]
    assert cut[0, 1, 0].tolist() == expected


def test_mean_squared_error_is_the_mean_over_all_elements() -> None:
    first, second = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    squares = [(a - b) ** 2 for a, b in zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)]
    assert float(mean_squared_error(first, second)) == pytest.approx(sum(squares) / 24, rel=1e-6)
    assert mean_squared_error(first.bfloat16(), second).dtype == torch.float32


def test_soft_dice_is_zero_for_equal_images_and_one_without_overlap() -> None:
    image = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert float(soft_dice(image, image)) == pytest.approx(0, abs=1e-6)
    assert float(soft_dice(torch.zeros_like(image), image)) == 1
    p, t = image.flatten().tolist(), image.flip(0).flatten().tolist()
    overlap = 2 * sum(a * b for a, b in zip(p, t, strict=True))
    sizes = sum(a * a for a in p) + sum(b * b for b in t)
    assert float(soft_dice(image, image.flip(0))) == pytest.approx(1 - overlap / sizes, rel=1e-5)
