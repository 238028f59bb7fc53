"""E_i - F of small experts survives bfloat16: against float64, in the block as it is and as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, ModelSpec, Scope
from samora_pipeline.models import expert_block
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.branch_products import BranchProducts
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.fusions.fusion import Fusion
from samora_pipeline.models.lora import LoRA

SHARE = 0.01
"""|BA| / |W|, Frobenius"""
TOLERANCE, ROUNDING = 0.02, 2**-8
"""of the norm of E_i - F: some roundings of a difference itself; and the spacing of bfloat16 numbers near 1"""


class Listening(Fusion):
    """Keeps E_i - F and adds nothing."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, base: Tensor, experts: Tensor) -> Tensor:
        self.difference = experts.double() - base.double()
        return torch.zeros_like(base)


def encoder(backbone: str, scope: Scope) -> nn.Module:
    """A random encoder whose experts change the weights of q and v by a hundredth of their norm."""
    torch.manual_seed(0)
    decoder = "sam2" if "2" in backbone else "samed"
    network: Any = build_network(
        ModelSpec(backbone, 128, 3, levels=LEVELS, lora_rank=4, fusion=FusionSpec(), decoder=decoder)
    )
    for wrapper in expert_blocks(network).values():
        block: Any = wrapper
        block.fusion, block.scope = Listening(), scope
        q, _, v = block.block.get_submodule("attn.qkv").weight.detach().chunk(3)
        for expert in block.experts.values():
            assert isinstance(expert, LoRA)
            with torch.no_grad():
                for frozen, a, b in ((q, expert.q_a, expert.q_b), (v, expert.v_a, expert.v_b)):
                    b.normal_()
                    b.mul_(SHARE * frozen.norm() / (b @ a).norm())
    return network.image_encoder.eval()


def differences(network: nn.Module, images: Tensor) -> list[Tensor]:
    with torch.no_grad():
        network(images)
    fusions: list[Any] = [block.fusion for block in expert_blocks(network).values()]
    return [fusion.difference for fusion in fusions]


def errors(found: list[Tensor], right: list[Tensor]) -> list[float]:
    return [float((one - other).norm() / other.norm()) for one, other in zip(found, right, strict=True)]


@contextmanager
def nothing(branches: int, x: Tensor) -> Iterator[None]:
    """The block as it was: autocast rounds every branch for itself."""
    yield


@pytest.mark.parametrize("scope", ["block", "attention"])
@pytest.mark.parametrize("backbone", ["samora_tiny", "samora2_tiny"])
def test_differences_of_small_experts_are_right_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, backbone: str, scope: Scope
) -> None:
    network, images = encoder(backbone, scope), torch.rand(2, 3, 128, 128)
    right = differences(copy.deepcopy(network).double(), images.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert max(errors(differences(network, images), right)) < TOLERANCE
        monkeypatch.setattr(expert_block, "by_differences", nothing)
        assert min(errors(differences(network, images), right)) > 5 * TOLERANCE
    # In single precision there is nothing to mend, and nothing is changed.
    plain = differences(network, images)
    monkeypatch.undo()
    assert all(torch.equal(one, other) for one, other in zip(plain, differences(network, images), strict=True))


def test_gradients_reach_experts_and_input_through_the_differences() -> None:
    network = encoder("samora_tiny", "block")
    block = next(iter(expert_blocks(network).values()))
    tokens = torch.randn(1, 8, 8, 96)

    def gradients(dtype: torch.dtype, *, reduced: bool) -> list[Tensor]:
        copied = copy.deepcopy(block).to(dtype)
        copied.fusion = Sum()
        x = tokens.to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            output = copied(x)
        output.double().square().mean().backward()
        learned = [value.grad for name, value in copied.named_parameters() if "experts" in name]
        return [value.double() for value in (x.grad, *learned) if value is not None]

    right, found = gradients(torch.float64, reduced=False), gradients(torch.float32, reduced=True)
    assert len(found) == len(right) == 13
    assert max(errors(found, right)) < 0.03


class Sum(Fusion):
    """The sum of all E_i - F."""

    def __init__(self) -> None:
        nn.Module.__init__(self)

    def forward(self, base: Tensor, experts: Tensor) -> Tensor:
        return (experts - base).sum(0)


def test_a_layer_of_branches_is_the_layer_of_each() -> None:
    torch.manual_seed(0)
    layer, base = nn.Linear(64, 32), torch.randn(5, 64)
    branches = torch.cat((base, base + 1e-3 * torch.randn(5, 64)))
    with torch.no_grad():
        right = copy.deepcopy(layer).double()(branches.double())
        with BranchProducts(2, torch.bfloat16):
            found = layer(branches)
    assert found.dtype == torch.float32
    # Input, weight and output are rounded by half of it each.
    assert float((found - right).abs().max() / right.abs().max()) < 1.5 * ROUNDING
    first, second = (found[5:] - found[:5]).double(), right[5:] - right[:5]
    assert float((first - second).norm() / second.norm()) < ROUNDING
