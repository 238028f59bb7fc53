from __future__ import annotations

import copy

import torch
from torch import nn

from samora_pipeline.models.kept import kept


class Counting:
    def __init__(self, source: torch.Tensor) -> None:
        self.source, self.calls = source, 0

    def __call__(self) -> torch.Tensor:
        self.calls += 1
        return 2 * self.source


def test_it_is_made_once_until_a_source_changes_or_the_key_differs() -> None:
    owner, source = nn.Linear(2, 2), torch.ones(3)
    make = Counting(source)
    assert kept(owner, "twice", [source], make) is kept(owner, "twice", [source], make)
    assert make.calls == 1
    source.add_(1)
    assert torch.equal(kept(owner, "twice", [source], make), torch.full((3,), 4.0))
    kept(owner, "twice", [source], make, "another")
    kept(owner, "twice", [source.clone()], make, "another")
    assert make.calls == 4
    kept(copy.deepcopy(owner), "twice", [source], make)
    assert "_kept" not in owner.state_dict()


def test_a_source_that_learns_gets_its_gradient() -> None:
    owner, source = nn.Linear(2, 2), torch.ones(3, requires_grad=True)
    make = Counting(source)
    for _ in range(2):
        kept(owner, "twice", [source], make).sum().backward()
    assert make.calls == 2
    assert source.grad is not None
    assert source.grad.tolist() == [4.0] * 3
    with torch.no_grad():
        first = kept(owner, "twice", [source], make)
        assert kept(owner, "twice", [source], make) is first


def test_what_was_made_in_inference_mode_can_be_trained_with_afterwards() -> None:
    owner, source, weight = nn.Linear(2, 2), torch.ones(3), torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        kept(owner, "twice", [source], lambda: 2 * source)
    (weight * kept(owner, "twice", [source], lambda: 3 * source)).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0] * 3
