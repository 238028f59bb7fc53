"""What makes a step cheaper on a GPU changes its losses by rounding at most."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from samora_pipeline.inference.precision import SINGLE, Arithmetic
from samora_pipeline.models import reduced_weights
from samora_pipeline.models.backbones import sam_block, sam_decoder
from tests.pretend_cuda.full_size import DrawnSlices, pretended
from tests.pretend_cuda.insides import HALF, FullSize, take_steps
from trainers.methods import SAMoraTrainer

STEPS = 3
# Of a loss after three steps, whose own bfloat16 has eight binary digits.
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-3}


def losses_of(arithmetic: Arithmetic, monkeypatch: pytest.MonkeyPatch, *changes: tuple[Any, str, Any]) -> list[float]:
    with monkeypatch.context() as patch, pretended() as device:
        for change in changes:
            patch.setattr(*change)
        device.count_lines = False
        found: list[float] = []
        training = FullSize(64, "samora_tiny", 2, DrawnSlices(64)).labelled(SAMoraTrainer)
        own = training.batches
        told = replace(
            training,
            batches=lambda epoch: [batch[:4] for batch in own(epoch)],
            after_step=lambda _, values: found.append(values["loss"]),
        )
        take_steps(told, device.device, STEPS, lambda *_: None, arithmetic)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("arithmetic", [SINGLE, HALF], ids=lambda one: one.name)
def test_losses_are_those_of_the_exact_path(arithmetic: Arithmetic, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = losses_of(
        arithmetic,
        monkeypatch,
        (sam_block, "FUSED_ON", ()),
        (sam_decoder, "FUSED_ON", ()),
        (reduced_weights, "_is_reduced", lambda device, dtype: False),
    )
    found = losses_of(arithmetic, monkeypatch)
    assert len(found) == STEPS
    assert exact[0] != exact[-1]
    assert found == pytest.approx(exact, rel=TOLERANCES[arithmetic.name])


@pytest.mark.slow
def test_weights_that_are_cast_together_are_those_of_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = losses_of(HALF, monkeypatch, (reduced_weights, "_is_reduced", lambda device, dtype: False))
    found = losses_of(HALF, monkeypatch)
    # Sums of products in another order, in the first step; then the weights differ by that.
    assert found[0] == pytest.approx(apart[0], rel=1e-6)
    assert all(math.isfinite(loss) for loss in found)


def test_parameters_are_themselves_again_after_a_pass() -> None:
    with pretended():
        layer = torch.nn.Linear(4, 4).to("cuda")
        layer.bias.requires_grad_(False)
        weights = reduced_weights.ReducedWeights([layer])
        before = dict(layer.named_parameters())
        with weights.used(torch.device("cuda"), torch.bfloat16):
            assert layer.weight.dtype == torch.bfloat16
            assert layer.bias.dtype == torch.float32
            (layer.weight.float().sum() * 2).backward()
        assert all(value is before[name] for name, value in layer.named_parameters())
        assert layer.weight.grad is not None
        assert layer.weight.grad.dtype == torch.float32
        assert float(layer.weight.grad.cpu().sum()) == 32
