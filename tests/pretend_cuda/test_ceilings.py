"""A step at full size waits for the device twice at most and launches no more than it was measured to.

A ceiling is the measured number itself. One that is lower is written down; one that is higher needs a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from samora_pipeline.models.backbones.sam_block import SamBlockSteps
from tests.pretend_cuda.full_size import Cost, pretended
from tests.pretend_cuda.insides import STAGES, FullSize, cost_of_step
from trainers.methods import SAMoraTrainer

WAITS = 2
LAUNCHES = {"finetune": 4858, "finetune 1 x 32": 2009, "expert_pixel": 8352}
FAST = ("finetune",)


def too_much(cost: Cost, launches: int) -> list[str]:
    """The lines that wait, if there are too many waits, and those that launch most, if there are too many launches."""
    found = [line for line, _ in cost.waits.most_common(5)] if sum(cost.waits.values()) > WAITS else []
    if sum(cost.launches.values()) > launches:
        found += [f"{sum(cost.launches.values())} launches", *(line for line, _ in cost.launches.most_common(5))]
    return found


def cost_of(build: Callable[[], Any]) -> Cost:
    with pretended(numbers=False) as device:
        device.count_lines = False  # of launches; of those that wait it is always named
        return cost_of_step(device, build())


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in LAUNCHES]
)
def test_a_step_costs_no_more_than_it_did(name: str) -> None:
    assert too_much(cost_of(STAGES[name]), LAUNCHES[name]) == []


def test_an_index_on_the_host_in_a_block_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA accepts it, and waits: nothing but the ceiling can catch it."""
    small = FullSize(64, "samora_tiny", None)
    before = cost_of(lambda: small.labelled(SAMoraTrainer))
    launches = sum(before.launches.values())
    assert too_much(before, launches) == []
    enter = SamBlockSteps.enter

    def with_index(steps: SamBlockSteps, block: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return enter(steps, block, x[torch.arange(len(x), device=x.device).cpu()])

    monkeypatch.setattr(SamBlockSteps, "enter", with_index)
    found = too_much(cost_of(lambda: small.labelled(SAMoraTrainer)), launches)
    assert any("index by positions on the CPU" in line for line in found)
