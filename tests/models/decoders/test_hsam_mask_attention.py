"""The mask-guided self-attention against a restatement pixel by pixel, its limits, and its class balance."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from samora_pipeline.models.decoders.hsam_attention import MaskGuidedAttention, noise_shares
from tests.models.decoders.test_hsam_transformer import slow_attention

K, SIDE, HEADS = 3, 4, 2


def slow_scores(module: MaskGuidedAttention, features: Tensor, heads: int = HEADS) -> list[float]:
    """One sample of mask features (K,n), no resizing: the score of each pixel."""
    tokens = module.norm1(slow_attention(module.self_attn1, features, features, features, None, heads))
    tokens = slow_attention(module.self_attn2, tokens, tokens, tokens, None, heads)
    tokens = module.norm2(torch.stack([token + module.mlp(token) for token in tokens]))
    weight, bias = module.select.weight[0], float(module.select.bias)
    return [
        max(0.0, sum(float(weight[k] * tokens[k, pixel]) for k in range(len(tokens))) + bias)
        for pixel in range(tokens.shape[1])
    ]


def make(randomise: Callable[..., None], *, constant: bool = False) -> MaskGuidedAttention:
    module = MaskGuidedAttention(K, side=SIDE, heads=HEADS, constant=constant).eval()
    randomise(module, 0.4)
    return module


def test_the_map_is_a_softmax_over_positions_times_their_number(randomise: Callable[..., None]) -> None:
    module = make(randomise)
    features = torch.randn(2, K, SIDE, SIDE)
    with torch.no_grad():
        got = module(features)
        assert got.shape == (2, 1, SIDE, SIDE)
        for b in range(2):
            exponents = [math.exp(score) for score in slow_scores(module, features[b].flatten(1))]
            expected = torch.tensor([SIDE * SIDE * e / sum(exponents) for e in exponents])
            torch.testing.assert_close(got[b].flatten(), expected, rtol=1e-4, atol=1e-5)


def test_it_redistributes_and_every_parameter_that_can_learn_does(randomise: Callable[..., None]) -> None:
    module = make(randomise)
    features = torch.randn(2, K, SIDE, SIDE, requires_grad=True)
    attention = module(features)
    torch.testing.assert_close(attention.mean((1, 2, 3)), torch.ones(2))
    assert attention.std() > 0.05
    (attention * torch.randn_like(attention)).sum().backward()
    assert features.grad is not None
    assert features.grad.any()
    still = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.any()}
    assert all(name.endswith("k_proj.bias") for name in still)  # it cancels in a softmax


def test_the_released_form_is_one_everywhere_and_learns_nothing(randomise: Callable[..., None]) -> None:
    module = make(randomise, constant=True)
    features = torch.randn(2, K, SIDE, SIDE, requires_grad=True)
    attention = module(features)
    assert torch.equal(attention, torch.ones(2, 1, SIDE, SIDE))
    (attention * torch.randn_like(attention)).sum().backward()
    gradients = [p.grad for p in module.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


def test_equal_scores_give_the_released_map(randomise: Callable[..., None]) -> None:
    module = make(randomise)
    torch.nn.init.zeros_(module.select.weight)
    with torch.no_grad():
        torch.testing.assert_close(module(torch.randn(2, K, SIDE, SIDE)), torch.ones(2, 1, SIDE, SIDE))


@pytest.mark.parametrize("grid", [3, 4, 5, 9])
def test_any_grid_and_the_same_parameters(grid: int, randomise: Callable[..., None]) -> None:
    module = make(randomise)
    with torch.no_grad():
        attention = module(torch.randn(1, K, grid, grid))
    assert attention.shape == (1, 1, grid, grid)
    assert (attention > 0).all()


@pytest.mark.parametrize(("side", "heads", "count"), [(14, 7, 1_114_750), (32, 8, 12_598_282)])
def test_sizes_of_the_public_code(side: int, heads: int, count: int) -> None:
    with torch.device("meta"):
        module = MaskGuidedAttention(9, side=side, heads=heads)
    assert sum(parameter.numel() for parameter in module.parameters()) == count


def test_rare_classes_get_more_noise() -> None:
    target = torch.zeros(2, 8, 8, dtype=torch.int64)
    target[0, :2] = 5  # 16 pixels
    target[1, :, :3] = 2  # 24
    target[1, 7, 7] = -1
    shares = noise_shares(target, 8)
    for value, share in ((0, 0.0), (2, 0.175), (5, 0.35), (-1, 0.0)):
        torch.testing.assert_close(shares[target == value], torch.full((int((target == value).sum()),), share))
    # Without other classes, or without labels at all, there is nothing to balance.
    assert not noise_shares(torch.full((1, 4, 4), 3), 4).any()
    assert not noise_shares(torch.full((1, 4, 4), -1), 2).any()


def test_noise_follows_the_target_and_needs_training(randomise: Callable[..., None]) -> None:
    module = make(randomise)
    features = torch.randn(1, K, SIDE, SIDE)
    target = torch.zeros(1, 16, 16, dtype=torch.int64)
    target[:, :4] = 1
    with torch.no_grad():
        assert torch.equal(module(features, target), module(features))
        module.train()
        torch.manual_seed(0)
        plain = module(features)
        torch.manual_seed(0)
        assert not torch.equal(module(features, target), plain)
