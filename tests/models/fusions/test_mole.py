"""MoLE's gate against its formula written out token by token."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from samora_pipeline.contracts.model_spec import FusionSpec, Level, ModelSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.expert_block import expert_blocks, only_expert
from samora_pipeline.models.fusions.mole import MoLE
from tests.models.fusions.test_hl_attn import RESIDUALS, Residual

DIM = 5


def normalised(token: Tensor) -> Tensor:
    centred = token - token.mean()
    return centred / torch.sqrt((centred**2).mean() + 1e-6)


def written_out(fusion: MoLE, base: Tensor, experts: Tensor, residual: Residual) -> Tensor:
    count, batch, height, width, dim = experts.shape
    temperature = math.exp(float(fusion.log_temperature))
    output = torch.zeros_like(base)
    for b in range(batch):
        seen = []
        for expert in experts:
            total = torch.zeros(dim, dtype=base.dtype)
            for y in range(height):
                for x in range(width):
                    total += normalised(expert[b, y, x])
            seen.append(total / (height * width))
        side_by_side = torch.cat(seen)
        scores = [
            (float(fusion.gate.weight[e] @ side_by_side) + float(fusion.gate.bias[e])) / temperature
            for e in range(count)
        ]
        exponentials = [math.exp(score) for score in scores]
        for e in range(count):
            feature = experts[e, b] - base[b] if residual == "delta" else experts[e, b]
            output[b] += exponentials[e] / sum(exponentials) * feature
    return output


@pytest.mark.parametrize("residual", RESIDUALS)
@pytest.mark.parametrize("num_experts", [2, 3])
def test_the_formula_written_out(residual: Residual, num_experts: int, randomise: Callable[..., None]) -> None:
    fusion = MoLE(MoLE.Options(residual=residual), num_experts=num_experts, dim=DIM, window=0).double()
    randomise(fusion, 0.7)
    base = torch.randn(2, 3, 4, DIM, dtype=torch.float64)
    experts = torch.randn(num_experts, 2, 3, 4, DIM, dtype=torch.float64)
    with torch.no_grad():
        expected = written_out(fusion, base, experts, residual)
        torch.testing.assert_close(fusion(base, experts), expected, rtol=0, atol=1e-12)


def test_training_starts_from_the_mean_of_the_experts() -> None:
    fusion = MoLE(MoLE.Options(), num_experts=3, dim=DIM, window=0)
    base, experts = torch.randn(2, 3, 4, DIM), torch.randn(3, 2, 3, 4, DIM)
    torch.testing.assert_close(base + fusion(base, experts), experts.mean(0))
    torch.testing.assert_close(fusion.gates(experts), torch.full((2, 3), 1 / 3))


def test_each_image_has_its_own_gates(randomise: Callable[..., None]) -> None:
    fusion = MoLE(MoLE.Options(), num_experts=3, dim=DIM, window=0)
    randomise(fusion, 0.7)
    gates = fusion.gates(torch.randn(3, 4, 2, 2, DIM))
    torch.testing.assert_close(gates.sum(-1), torch.ones(4))
    assert len({tuple(row) for row in gates.tolist()}) == 4


def test_a_low_temperature_chooses_one_expert(randomise: Callable[..., None]) -> None:
    fusion = MoLE(MoLE.Options(), num_experts=3, dim=DIM, window=0)
    randomise(fusion, 0.7)
    with torch.no_grad():
        fusion.log_temperature.fill_(-8)
        assert float(fusion.gates(torch.randn(3, 1, 2, 2, DIM)).max()) > 0.999


def test_equal_experts_are_that_expert_whatever_the_gates_say(randomise: Callable[..., None]) -> None:
    network = build_network(ModelSpec("samora_tiny", 64, 2, fusion=FusionSpec("mole", scope="attention"), lora_rank=4))
    randomise(network, 0.05)
    with torch.no_grad():
        for block in expert_blocks(network.image_encoder).values():
            for level in (Level.PATCH, Level.PIXEL):
                block.experts[level.value].load_state_dict(block.experts["image"].state_dict())
        images = torch.rand(1, 1, 64, 64)
        fused = network(images)
        with only_expert(network.image_encoder, Level.IMAGE):
            torch.testing.assert_close(fused, network(images), rtol=1e-4, atol=1e-4)


def test_size_on_vit_b() -> None:
    fusion = MoLE(MoLE.Options(), num_experts=3, dim=768, window=0)
    assert 12 * sum(p.numel() for p in fusion.parameters()) == 82_992
