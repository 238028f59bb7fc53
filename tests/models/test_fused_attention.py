"""The fused attention of SAM's blocks against the exact one, on the CPU, which computes both."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from segment_anything.modeling.image_encoder import Block
from torch import Tensor

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level, ModelSpec, Scope
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.backbones import sam_block, sam_decoder
from samora_pipeline.models.backbones.sam import SamBlockSteps
from samora_pipeline.models.catalog import build_fusion
from samora_pipeline.models.expert_block import ExpertBlock
from tests.models.test_branch_products import TOLERANCE as SMALL_DIFFERENCE
from tests.models.test_branch_products import differences, encoder, errors

DIM = 24
# Window side and token grid: global, one exact window, padded on both sides.
WINDOWS = [(0, (4, 5)), (4, (4, 4)), (4, (6, 5))]
FARTHER = 5.0
"""times the error of the exact path in float32"""
TOLERANCE = 2e-5
"""of a network's largest output, in float32"""


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    def switch() -> None:
        for module in (sam_block, sam_decoder):
            monkeypatch.setattr(module, "FUSED_ON", ("cpu",))

    return switch


def expert_block(window: int, size: tuple[int, int], levels: tuple[Level, ...], scope: Scope, rank: int) -> ExpertBlock:
    spec = FusionSpec(scope=scope)
    block = Block(DIM, num_heads=3, use_rel_pos=True, window_size=window, input_size=size)
    fusion = build_fusion(spec, num_experts=len(levels), dim=DIM, window=window) if len(levels) > 1 else None
    return ExpertBlock(block, SamBlockSteps(), levels, rank, fusion=fusion, scope=scope)


def gradients(module: torch.nn.Module, x: Tensor) -> list[Tensor]:
    given = x.clone().requires_grad_()
    output = module(given)
    (output * torch.linspace(-1, 1, output.numel()).view_as(output).to(output)).sum().backward()
    found = [output.detach(), given.grad, *(parameter.grad for parameter in module.parameters())]
    module.zero_grad()
    return [value for value in found if value is not None]


def apart(found: list[Tensor], right: list[Tensor]) -> float:
    """The largest error, as a share of the largest output or gradient of its tensor."""
    assert len(found) == len(right) > 10
    largest = max(float(value.abs().max()) for value in right)
    # A bias of keys has a gradient of zero, of which nothing but the rounding of large numbers is left.
    shares = [
        float((one.double() - other.double()).abs().max()) / max(float(other.abs().max()), 1e-2 * largest)
        for one, other in zip(found, right, strict=True)
    ]
    return max(shares)


@pytest.mark.parametrize("levels", [LEVELS, LEVELS[:2], LEVELS[:1]])
@pytest.mark.parametrize(("window", "size"), WINDOWS)
@pytest.mark.parametrize(("scope", "rank"), [("block", 4), ("attention", 3)])
def test_outputs_and_all_gradients_are_those_of_the_exact_path(
    scope: Scope,
    rank: int,
    window: int,
    size: tuple[int, int],
    levels: tuple[Level, ...],
    randomise: Callable[..., None],
    fused: Callable[[], None],
) -> None:
    """In float64 to the last digits, and in float32 not much farther from those than the exact path is."""
    block = expert_block(window, size, levels, scope, rank)
    randomise(block, 0.3)
    x = torch.randn(2, *size, DIM)
    exact = gradients(block, x)
    right = gradients(copy.deepcopy(block).double(), x.double())
    fused()
    assert apart(gradients(copy.deepcopy(block).double(), x.double()), right) < 1e-11
    assert apart(gradients(block, x), right) < FARTHER * apart(exact, right)


def test_a_table_of_another_size_is_left_to_the_exact_path(fused: Callable[[], None]) -> None:
    fused()
    steps, block = SamBlockSteps(), Block(DIM, num_heads=3, use_rel_pos=True, input_size=(4, 4))
    assert steps.is_fused(block, torch.zeros(1, 4, 4, DIM))
    assert not steps.is_fused(block, torch.zeros(1, 5, 4, DIM))
    assert not steps.is_fused(Block(DIM, num_heads=3), torch.zeros(1, 4, 4, DIM))


def test_a_whole_network_differs_by_rounding(fused: Callable[[], None]) -> None:
    torch.manual_seed(0)
    network = build_network(ModelSpec("samora_tiny", 64, 3, levels=LEVELS, lora_rank=4, fusion=FusionSpec()))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        images = torch.rand(2, 1, 64, 64)
        exact = network(images)
        fused()
        found = network(images)
    assert not torch.equal(found, exact)
    assert float((found - exact).abs().max()) <= TOLERANCE * float(exact.abs().max())


@pytest.mark.parametrize("scope", ["block", "attention"])
def test_differences_of_small_experts_are_right_in_bfloat16(scope: Scope, fused: Callable[[], None]) -> None:
    network, images = encoder("samora_tiny", scope), torch.rand(2, 3, 128, 128)
    right = differences(copy.deepcopy(network).double(), images.double())
    fused()
    with torch.autocast("cpu", torch.bfloat16):
        assert max(errors(differences(network, images), right)) < SMALL_DIFFERENCE
