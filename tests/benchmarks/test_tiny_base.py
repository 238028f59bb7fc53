"""The program that made the packaged base: its pictures, points, loss, and a base that loads like any other."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.files import digest_file
from samora_pipeline.models.assembly import build_network
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.sam_checkpoint import load_base
from benchmarks.tiny_base.random_shapes import draw_picture
from benchmarks.tiny_base.train import PictureBatches, promptable_loss, save_base, train


def slow_loss(logits: Tensor, iou: Tensor, target: Tensor) -> float:
    """The best of the masks by twice the cross-entropy plus Dice, and the error of all guesses of IoU."""
    best, error = [], []
    for sample, mask in enumerate(target.tolist()):
        terms = []
        truth = [value for row in mask for value in row]
        for guess, map_ in zip(iou[sample].tolist(), logits[sample].tolist(), strict=True):
            values = [value for row in map_ for value in row]
            p = [1 / (1 + math.exp(-value)) for value in values]
            entropy = -sum(t * math.log(q) + (1 - t) * math.log(1 - q) for t, q in zip(truth, p, strict=True))
            overlap = sum(t * q for t, q in zip(truth, p, strict=True))
            terms.append(2 * entropy / len(p) + 1 - (2 * overlap + 1) / (sum(p) + sum(truth) + 1))
            inside = [(value > 0, t > 0.5) for value, t in zip(values, truth, strict=True)]
            error.append((guess - sum(a and b for a, b in inside) / max(1, sum(a or b for a, b in inside))) ** 2)
        best.append(min(terms))
    return sum(best) / len(best) + 0.1 * sum(error) / len(error)


def test_loss_is_that_of_the_best_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 4, 4, generator=generator)
    iou, target = torch.rand(3, 2, generator=generator), torch.rand(3, 4, 4, generator=generator)
    assert float(promptable_loss(logits, iou, target)) == pytest.approx(slow_loss(logits, iou, target), rel=1e-5)


def test_points_lie_in_the_shapes_they_ask_for() -> None:
    images, points, masks = PictureBatches(2, 64, seed=1).draw(step=0, batch=3, points=4)
    assert images.shape == (3, 3, 64, 64)
    assert points.shape == (3, 4, 2)
    for (column, row), mask in zip(points.flatten(0, 1).long().tolist(), masks, strict=True):
        assert mask[row // 4, column // 4] > 0


def test_pictures_depend_on_their_seed_alone() -> None:
    first, again, other = (draw_picture(np.random.default_rng(seed), 48) for seed in (5, 5, 6))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.regions, again.regions)
    assert not np.array_equal(first.image, other.image)
    assert 0 <= first.image.min() < first.image.max() <= 1


def test_a_trained_base_loads_with_nothing_left_over(tmp_path: Path) -> None:
    digest = save_base(train(1, pictures=1, batch=1, points=1), tmp_path / "base.safetensors")
    assert digest == digest_file(tmp_path / "base.safetensors")
    state = read_weights(tmp_path / "base.safetensors")
    network = build_network(
        ModelSpec("samora_tiny", input_size=128, num_outputs=4, levels=(), fusion=None, lora_rank=4)
    )
    report = load_base(network, state)
    assert set(report.loaded) == set(state)
    assert report.resized == report.dropped == ()
