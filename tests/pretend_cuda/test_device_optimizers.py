"""Optimizers and norms take CUDA's way and give the CPU's numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.pretend_cuda.device import FOREACH_TYPES, PretendCuda
from tests.pretend_cuda.launches import CHUNK, multi_tensor_launches

SHAPES = [(40, 30), (40,), (3, 5, 7), (1,)] * 25
WAYS: dict[str, dict[str, bool]] = {"default": {}, "per tensor": {"foreach": False}, "fused": {"fused": True}}
# AdamW: decay, two moments in three calls, root, division, eps, change; SGD: momentum twice, change.
LAUNCHES = {
    ("AdamW", "default", 13): 8,
    ("AdamW", "default", 12): 1 + 2 + 1 + 3 + 2 + 2 + 1 + 3,
    ("AdamW", "per tensor", 13): 800,
    ("AdamW", "per tensor", 12): 800,
    ("AdamW", "fused", 13): 1 + 1,
    ("AdamW", "fused", 12): 1 + 3,
    ("SGD", "default", 13): 3,
    ("SGD", "default", 12): 1 + 2 + 2,
    ("SGD", "per tensor", 13): 300,
    ("SGD", "per tensor", 12): 300,
    ("SGD", "fused", 13): 1,
    ("SGD", "fused", 12): 3,
}


def _optimizer(name: str, own: list[Any], **how: Any) -> torch.optim.Optimizer:
    if name == "AdamW":
        return torch.optim.AdamW(own, 1e-2, weight_decay=0.1, **how)
    return torch.optim.SGD(own, 1e-2, momentum=0.9, **how)


@pytest.mark.parametrize(("name", "way", "cuda"), LAUNCHES)
def test_an_optimizer_launches_as_on_cuda_and_computes_as_on_the_cpu(name: str, way: str, cuda: int) -> None:
    torch.manual_seed(0)
    start, pulls = ([torch.randn(shape) for shape in SHAPES] for _ in range(2))
    here = [torch.nn.Parameter(value.clone()) for value in start]
    on_cpu = _optimizer(name, here, foreach=False)
    with PretendCuda(cuda=cuda) as device:
        there = [torch.nn.Parameter(value.to("cuda")) for value in start]
        on_cuda = _optimizer(name, there, **WAYS[way])
        for own, optimizer in ((here, on_cpu), (there, on_cuda)):
            for step in range(3):
                for parameter, pull in zip(own, pulls, strict=True):
                    parameter.grad = (pull * (step + 1)).to(parameter.device)
                device.ledger.clear()
                optimizer.step()
        launches = sum(device.ledger.operations.values())
        apart = max((a - b.cpu()).abs().max().item() for a, b in zip(here, there, strict=True))
    assert launches == LAUNCHES[name, way, cuda]
    assert apart < 1e-6


def test_clipping_goes_by_foreach() -> None:
    with PretendCuda() as device:
        own = [torch.nn.Parameter(torch.ones(3, 4, device="cuda")) for _ in range(100)]
        for parameter in own:
            parameter.grad = torch.full_like(parameter, 2.0)
        device.ledger.clear()
        norm = torch.nn.utils.clip_grad_norm_(own, 1.0)
        seen = device.ledger.operations
        assert (seen["_foreach_norm"], seen["_foreach_mul_"]) == (4, 1)
        assert norm.item() == pytest.approx(2 * 1200**0.5)
        grads = [parameter.grad for parameter in own if parameter.grad is not None]
        assert grads[0].norm().item() == pytest.approx(0.1, abs=1e-4)
        device.ledger.clear()
        torch.nn.utils.get_total_norm(grads)
        assert device.ledger.operations["_foreach_norm"] == 4


def test_foreach_leaves_the_fast_way_where_torch_does() -> None:
    with PretendCuda() as device:
        turned = [torch.ones(3, 2, device="cuda").t(), torch.ones(2, device="cuda")]
        device.ledger.clear()
        torch._foreach_add_([torch.zeros(2, 3, device="cuda"), torch.zeros(2, device="cuda")], turned)
        assert device.ledger.operations["_foreach_add_"] == 2
        device.ledger.clear()
        torch._foreach_copy_([torch.zeros(2, device="cuda")] * 3, [torch.ones(2)] * 3)
        assert sum(device.ledger.waits.values()) == 3
        with pytest.raises(RuntimeError, match="same device"):
            torch._foreach_add_([torch.zeros(2, device="cuda")], [torch.ones(2)])


def test_the_lists_of_foreach_types_are_as_before() -> None:
    before = [len(types) for types in FOREACH_TYPES]
    with PretendCuda():
        assert [len(types) for types in FOREACH_TYPES] == [number + 1 for number in before]
    assert [len(types) for types in FOREACH_TYPES] == before


@pytest.mark.parametrize(
    ("sizes", "lists", "how", "launches"),
    [
        ([10] * 100, 2, {"cuda": 12}, 2),
        ([0] * 9, 1, {}, 0),
        ([CHUNK * 321, 1], 1, {"cuda": 12}, 2),
        ([1] * 211, 5, {}, 2),
        ([1] * 700, 1, {"scalars": True}, 2),
        ([1] * 770, 1, {}, 1),
    ],
)
def test_the_rule_of_launches(sizes: list[int], lists: int, how: dict[str, Any], launches: int) -> None:
    assert multi_tensor_launches(sizes, lists, **how) == launches
