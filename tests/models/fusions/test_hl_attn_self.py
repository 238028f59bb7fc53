"""HL-Attn with self-attention against loops over heads and tokens, and against its formulas written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from samora_pipeline.models.fusions.stepwise import SelfHLAttention, SelfThenCross
from tests.models.fusions.test_hl_attn import DIM, ORDERS, RESIDUALS, Order, Residual, looped


@pytest.mark.parametrize("window", [0, 2, 5])
def test_a_step_equals_loops(window: int, randomise: Callable[..., None]) -> None:
    step = SelfThenCross(DIM, window, output_at_zero=False).double()
    randomise(step, 0.5)
    high, low = torch.randn(2, 2, 3, 3, DIM, dtype=torch.float64)
    with torch.no_grad():
        query = high + looped(step.within, high, high, window).double()
        expected = looped(step.between, query, low, window).double()
        torch.testing.assert_close(step(high, low), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_orders_and_residuals_written_out(order: Order, residual: Residual, randomise: Callable[..., None]) -> None:
    options = SelfHLAttention.Options(order=order, residual=residual)
    fusion = SelfHLAttention(options, num_experts=3, dim=DIM, window=0).double()
    randomise(fusion, 0.5)
    base = torch.randn(1, 2, 2, DIM, dtype=torch.float64)
    experts = torch.randn(3, 1, 2, 2, DIM, dtype=torch.float64)
    keep = int(residual == "delta")
    image, patch, pixel = experts - keep * base
    first, second = fusion.first, fusion.second
    assert second is not None
    if order == "2-1-1":
        expected = keep * image + second(image, keep * patch + first(patch, pixel))
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
    base, experts = torch.randn(1, 3, 3, DIM), torch.randn(num_experts, 1, 3, 3, DIM)
    delta, paper = (
        SelfHLAttention(
            SelfHLAttention.Options(order=order, residual=residual), num_experts=num_experts, dim=DIM, window=0
        )
        for residual in RESIDUALS
    )
    assert torch.equal(delta(base, experts), experts[0] - base)
    assert torch.equal(paper(base, experts), torch.zeros_like(base))


def test_as_many_weights_as_hl_attn_on_vit_b() -> None:
    """Table 3 cannot tell the two readings apart: only their biases differ in number."""
    fusion = SelfHLAttention(SelfHLAttention.Options(), num_experts=3, dim=768, window=0)
    sizes = {name: parameter.numel() for name, parameter in fusion.named_parameters()}
    assert 12 * sum(sizes.values()) == 9_483_264
    assert 12 * sum(size for name, size in sizes.items() if name.endswith("weight")) == 12 * 2 * 4 * 768 * 128
