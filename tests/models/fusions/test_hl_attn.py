"""HL-Attn against loops over heads and tokens, and against its formulas written out."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import pytest
import torch
from torch import Tensor, nn

from samora_pipeline.models.fusions.stepwise import CrossAttention, HLAttention

Order = Literal["2-1-1", "1-2-1", "1-1-2"]
Residual = Literal["delta", "paper"]
ORDERS: tuple[Order, ...] = get_args(Order)
RESIDUALS: tuple[Residual, ...] = get_args(Residual)
DIM = 20  # the width inside is 16: eight heads of two


def normalised(token: Tensor) -> Tensor:
    centred = token - token.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-6)


def looped(attention: CrossAttention, high: Tensor, low: Tensor, window: int) -> Tensor:
    """Eq. 8 token by token; a token sees the tokens of its window only."""
    batch, height, width, _ = high.shape
    output = torch.empty_like(high)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                seen = [
                    (j, i)
                    for j in range(height)
                    for i in range(width)
                    if not window or (j // window, i // window) == (y // window, x // window)
                ]
                q = attention.q(normalised(high[b, y, x]))
                k = [attention.k(normalised(low[b, j, i])) for j, i in seen]
                v = [attention.v(normalised(low[b, j, i])) for j, i in seen]
                mixed = []
                for head in range(8):
                    part = slice(2 * head, 2 * head + 2)
                    weights = [math.exp(float(q[part] @ key[part]) / math.sqrt(2)) for key in k]
                    terms = [weight * value[part] for weight, value in zip(weights, v, strict=True)]
                    mixed.append(sum(terms, torch.zeros(2)) / sum(weights))
                output[b, y, x] = attention.out(torch.cat(mixed))
    return output


@pytest.mark.parametrize("window", [0, 2, 5])
def test_cross_attention_equals_loops(window: int, randomise: Callable[..., None]) -> None:
    attention = CrossAttention(DIM, window, output_at_zero=False).double()
    randomise(attention, 0.5)
    high, low = torch.randn(2, 2, 3, 5, DIM, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            attention(high, low), looped(attention, high, low, window).double(), rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_orders_and_residuals_written_out(order: Order, residual: Residual, randomise: Callable[..., None]) -> None:
    fusion = HLAttention(HLAttention.Options(order=order, residual=residual), num_experts=3, dim=DIM, window=0).double()
    randomise(fusion, 0.5)
    base = torch.randn(1, 2, 2, DIM, dtype=torch.float64)
    experts = torch.randn(3, 1, 2, 2, DIM, dtype=torch.float64)
    first, second = fusion.first, fusion.second
    assert second is not None
    if residual == "delta":
        image, patch, pixel = (expert - base for expert in experts)
        keep = 1
    else:
        image, patch, pixel = experts
        keep = 0
    if order == "2-1-1":
        result = keep * patch + first(patch, pixel)
        expected = keep * image + second(image, result)
    elif order == "1-2-1":
        result = keep * image + first(image, pixel)
        expected = keep * result + second(result, patch)
    else:
        result = keep * image + first(image, patch)
        expected = keep * result + second(result, pixel)
    torch.testing.assert_close(fusion(base, experts), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num_experts", [2, 3])
def test_training_starts_from_the_image_expert_or_from_the_base(order: Order, num_experts: int) -> None:
    base = torch.randn(1, 3, 3, DIM)
    experts = torch.randn(num_experts, 1, 3, 3, DIM)
    delta = HLAttention(HLAttention.Options(order=order, residual="delta"), num_experts=num_experts, dim=DIM, window=0)
    paper = HLAttention(HLAttention.Options(order=order, residual="paper"), num_experts=num_experts, dim=DIM, window=0)
    assert torch.equal(delta(base, experts), experts[0] - base)
    assert torch.equal(paper(base, experts), torch.zeros_like(base))


def test_two_levels_are_one_step() -> None:
    fusion = HLAttention(HLAttention.Options(), num_experts=2, dim=DIM, window=0)
    nn.init.normal_(fusion.get_parameter("first.out.weight"))
    base, experts = torch.randn(1, 2, 2, DIM), torch.randn(2, 1, 2, 2, DIM)
    higher, lower = experts - base
    assert torch.equal(fusion(base, experts), higher + fusion.first(higher, lower))


def test_padding_of_border_windows_is_never_attended_to(randomise: Callable[..., None]) -> None:
    """A border window of one column must give what the same tokens give alone, whatever zeros pad it."""
    attention = CrossAttention(DIM, 2, output_at_zero=False)
    randomise(attention, 0.5)
    high, low = torch.randn(2, 1, 2, 3, DIM)
    alone = attention(high[:, :, 2:], low[:, :, 2:])
    torch.testing.assert_close(attention(high, low)[:, :, 2:], alone)


@pytest.mark.parametrize(("dim", "width"), [(96, 96), (112, 112), (768, 128), (100, 96)])
def test_width_is_at_most_128_and_whole_heads(dim: int, width: int) -> None:
    assert CrossAttention(dim, 0, output_at_zero=True).q.out_features == width


def test_size_on_vit_b() -> None:
    fusion = HLAttention(HLAttention.Options(), num_experts=3, dim=768, window=0)
    assert 12 * sum(p.numel() for p in fusion.parameters()) == 9_464_832


@pytest.mark.parametrize("num_experts", [1, 4])
def test_other_numbers_of_experts_are_refused(num_experts: int) -> None:
    with pytest.raises(ValueError, match="two or three"):
        HLAttention(HLAttention.Options(), num_experts=num_experts, dim=DIM, window=0)
