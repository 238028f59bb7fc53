"""Equations 1 to 10 of the paper, each written out as printed. Equation 11 has a file of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.evaluation.metrics import measure
from samora_pipeline.objectives.features import distillation, mean_squared_error, scaled_target
from samora_pipeline.objectives.segmentation import segmentation_loss
from tests.paper.parts import DIM, HEADS, block_with_experts, changed_weights, literal_fusion


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def equation_1(teacher: Tensor, student: Tensor) -> float:
    """The mean over n samples of the squared norm, in loops."""
    norms = [sum(float(a - b) ** 2 for a, b in zip(x, y, strict=True)) for x, y in zip(teacher, student, strict=True)]
    return sum(norms) / len(norms)


def test_equation_1_of_a_teacher_and_of_the_denoiser_is_divided_by_the_width() -> None:
    teacher, student = random(5, 7).float(), random(5, 7, seed=2).float()
    expected = pytest.approx(equation_1(teacher, student) / 7, rel=1e-5)
    assert distillation(student, scaled_target(teacher, "none")).loss.item() == expected
    assert mean_squared_error(student, teacher).item() == expected


def attention(x: Tensor, block: Any, change: Tensor | float) -> Tensor:
    """f_Attn of Eq. 2 and 4 on a grid of tokens, with what an expert adds to the weights."""
    weight = block.attn.qkv.weight + change
    tokens = x.flatten(0, 1)
    q, k, v = functional.linear(tokens, weight, block.attn.qkv.bias).split(DIM, -1)
    width = DIM // HEADS
    mixed = []
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        shares = torch.softmax(q[:, part] @ k[:, part].T / math.sqrt(width), -1)
        mixed.append(shares @ v[:, part])
    return functional.linear(torch.cat(mixed, -1), block.attn.proj.weight, block.attn.proj.bias).view(x.shape)


def whole_block(x: Tensor, block: Any, change: Tensor | float) -> Tensor:
    """Eq. 2 and 3, or Eq. 4 and 5 with an expert: (H,W,D) to (H,W,D)."""
    middle = x + attention(block.norm1(x), block, change)
    return middle + block.mlp(block.norm2(middle))


def test_equations_2_to_7() -> None:
    block, with_experts = block_with_experts()
    x = random(3, 4, DIM)
    with torch.no_grad():
        base = whole_block(x, block, 0.0)
        experts = [whole_block(x, block, change) for change in changed_weights(with_experts)]
        fused = with_experts.fusion(base[None], torch.stack(experts)[:, None])[0]
        torch.testing.assert_close(with_experts(x[None])[0], base + fused, rtol=0, atol=1e-10)
    assert fused.abs().max() > 0.1


def cross_attention(step: Any, high: Tensor, low: Tensor) -> Tensor:
    """Eq. 8 with eight heads; Q of the higher level, K and V of the lower one, (L,D) to (L,D)."""
    high, low = (functional.layer_norm(level, (DIM,), eps=1e-6) for level in (high, low))
    q, k, v = step.q(high), step.k(low), step.v(low)
    width = q.shape[-1] // HEADS
    parts = [slice(head * width, (head + 1) * width) for head in range(HEADS)]
    mixed = [torch.softmax(q[:, p] @ k[:, p].T / math.sqrt(width), -1) @ v[:, p] for p in parts]
    out: Tensor = step.out(torch.cat(mixed, -1))
    return out


def test_equations_6_and_8_fuse_patch_and_pixel_first() -> None:
    fusion = literal_fusion()
    image, patch, pixel = random(3, 6, DIM)
    with torch.no_grad():
        lower = cross_attention(fusion.first, patch, pixel)
        expected = cross_attention(fusion.second, image, lower)
        levels = torch.stack([image, patch, pixel]).view(3, 1, 2, 3, DIM)
        got = fusion(torch.zeros(1, 2, 3, DIM, dtype=torch.float64), levels)
        torch.testing.assert_close(got.reshape(6, DIM), expected, rtol=0, atol=1e-10)


def test_equation_9() -> None:
    logits, target = random(2, 3, 4, 4).float(), torch.arange(32).view(2, 4, 4) % 3
    terms = segmentation_loss(logits, target, cross_entropy=0.2, dice=0.8)
    shares = torch.softmax(logits, 1)
    hot = functional.one_hot(target, 3).permute(0, 3, 1, 2).float()
    entropy = -(hot * shares.log()).sum(1).mean()
    axes = (0, 2, 3)
    overlap, sizes = (shares * hot).sum(axes), (shares**2).sum(axes) + (hot**2).sum(axes)
    dice = (1 - (2 * overlap + 1e-5) / (sizes + 1e-5)).mean()
    assert terms.loss.item() == pytest.approx(0.2 * entropy.item() + 0.8 * dice.item(), rel=1e-4)


def farthest(truth: np.ndarray, guess: np.ndarray) -> float:
    """d_H of Eq. 10: the largest distance from a voxel of one mask to the nearest of the other, either way."""
    here, there = np.argwhere(truth), np.argwhere(guess)
    apart = np.linalg.norm(here[:, None] - there[None], axis=-1)
    return float(max(apart.min(1).max(), apart.min(0).max()))


def test_equation_10() -> None:
    volumes = []
    for shift in (1, 3):
        truth, guess = np.zeros((3, 12, 12), np.uint8), np.zeros((3, 12, 12), np.uint8)
        truth[1, 2:6, 2:7] = 1
        guess[1, 2:6, 2 + shift : 8 + shift] = 1
        volumes.append((truth, guess))
    distances = []
    for truth, guess in volumes:
        (found,) = measure(truth, guess, [(1,)])
        both = int((truth & guess).sum())
        assert found.overlap.dice == pytest.approx(2 * both / int(truth.sum() + guess.sum()))
        assert found.surfaces is not None
        distances.append(found.surfaces.distances((1.0, 1.0, 1.0)).hd())
    assert distances == [farthest(*pair) for pair in volumes] == [2.0, 4.0]
