"""HCAT's step against loops over heads and tokens, and torch's own layers put together as the tracker does."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from samora_pipeline.models.fusions.stepwise import HCAT, CrossLayer, TwoWayStep
from tests.models.fusions.test_hl_attn import ORDERS, RESIDUALS, Order, Residual

DIM = 20  # the width inside is 16: eight heads of two
WIDTH = 16


def normalised(token: Tensor, norm: nn.LayerNorm | None = None) -> Tensor:
    centred = token - token.mean()
    eps = 1e-6 if norm is None else norm.eps
    unit = centred / torch.sqrt((centred**2).mean() + eps)
    return unit if norm is None else unit * norm.weight + norm.bias


def looped_layer(layer: CrossLayer, x: Tensor, y: Tensor, window: int) -> Tensor:
    """One direction, token by token; a token sees the tokens of its window only."""
    batch, height, width, _ = x.shape
    output = torch.empty_like(x)
    for b in range(batch):
        for row in range(height):
            for column in range(width):
                seen = [
                    (j, i)
                    for j in range(height)
                    for i in range(width)
                    if not window or (j // window, i // window) == (row // window, column // window)
                ]
                q = layer.q(x[b, row, column])
                k, v = ([part(y[b, j, i]) for j, i in seen] for part in (layer.k, layer.v))
                mixed = []
                for head in range(8):
                    part = slice(2 * head, 2 * head + 2)
                    weights = [math.exp(float(q[part] @ key[part]) / math.sqrt(2)) for key in k]
                    terms = [weight * value[part] for weight, value in zip(weights, v, strict=True)]
                    mixed.append(sum(terms, torch.zeros(2)) / sum(weights))
                token = normalised(x[b, row, column] + layer.out(torch.cat(mixed)), layer.attended)
                first, _, last = layer.feed_forward
                output[b, row, column] = normalised(token + last(first(token).clamp(min=0)), layer.fed)
    return output


def looped(step: TwoWayStep, high: Tensor, low: Tensor, window: int) -> Tensor:
    above, below = high.new_empty(*high.shape[:3], WIDTH), low.new_empty(*low.shape[:3], WIDTH)
    for place in [(b, y, x) for b in range(high.shape[0]) for y in range(high.shape[1]) for x in range(high.shape[2])]:
        above[place] = step.high(normalised(high[place]))
        below[place] = step.low(normalised(low[place]))
    below = looped_layer(step.downward, below, above, window)
    return step.out(looped_layer(step.upward, above, below, window))


@pytest.mark.parametrize("window", [0, 2, 5])
def test_a_step_equals_loops(window: int, randomise: Callable[..., None]) -> None:
    step = TwoWayStep(DIM, window, output_at_zero=False).double()
    randomise(step, 0.5)
    high, low = torch.randn(2, 2, 3, 3, DIM, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(step(high, low), looped(step, high, low, window), rtol=0, atol=1e-9)


def test_a_layer_equals_torchs_decoder_layer_without_self_attention(randomise: Callable[..., None]) -> None:
    layer = CrossLayer(WIDTH, 0)
    randomise(layer, 0.5)
    attention = nn.MultiheadAttention(WIDTH, 8, batch_first=True)
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat((layer.q.weight, layer.k.weight, layer.v.weight)))
        attention.in_proj_bias.copy_(torch.cat((layer.q.bias, layer.k.bias, layer.v.bias)))
        attention.out_proj.load_state_dict(layer.out.state_dict())
        x, y = torch.randn(2, 2, 3, 4, WIDTH)
        flat_x, flat_y = x.flatten(1, 2), y.flatten(1, 2)
        expected = layer.attended(flat_x + attention(flat_x, flat_y, flat_y)[0])
        expected = layer.fed(expected + layer.feed_forward(expected))
        torch.testing.assert_close(layer(x, y), expected.view_as(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num_experts", [2, 3])
def test_training_starts_from_the_image_expert_or_from_the_base(order: Order, num_experts: int) -> None:
    base, experts = torch.randn(1, 3, 3, DIM), torch.randn(num_experts, 1, 3, 3, DIM)
    delta, paper = (
        HCAT(HCAT.Options(order=order, residual=residual), num_experts=num_experts, dim=DIM, window=0)
        for residual in RESIDUALS
    )
    assert torch.equal(delta(base, experts), experts[0] - base)
    assert torch.equal(paper(base, experts), torch.zeros_like(base))


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("order", ORDERS)
def test_orders_and_residuals_written_out(order: Order, residual: Residual, randomise: Callable[..., None]) -> None:
    base, experts = torch.randn(1, 2, 2, DIM), torch.randn(3, 1, 2, 2, DIM)
    fusion = HCAT(HCAT.Options(order=order, residual=residual), num_experts=3, dim=DIM, window=0)
    randomise(fusion, 0.5)
    first, second = fusion.first, fusion.second
    assert second is not None
    keep = int(residual == "delta")
    image, patch, pixel = experts - keep * base
    if order == "2-1-1":
        expected = keep * image + second(image, keep * patch + first(patch, pixel))
    elif order == "1-2-1":
        result = keep * image + first(image, pixel)
        expected = keep * result + second(result, patch)
    else:
        result = keep * image + first(image, patch)
        expected = keep * result + second(result, pixel)
    torch.testing.assert_close(fusion(base, experts), expected)


def test_size_on_vit_b() -> None:
    step = TwoWayStep(768, 0, output_at_zero=True)
    assert sum(p.numel() for p in step.parameters()) == 955_648
    fusion = HCAT(HCAT.Options(), num_experts=3, dim=768, window=0)
    assert 12 * sum(p.numel() for p in fusion.parameters()) == 22_935_552
