"""LARS against its definition number by number, and against timm's form where timm is installed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from samora_pipeline.models.lora import LoRA
from samora_pipeline.optimization.optimizers import Lars, lars, parameter_groups, set_learning_rate

RATE, DECAY = 0.3, 1e-2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.empty = nn.Parameter(torch.zeros(2, 2))


def literal_step(
    weights: list[float], gradients: list[float], speeds: list[float], *, decay: float, adapted: bool
) -> tuple[list[float], list[float]]:
    """SimCLR's rule on a flat list: weight decay in the gradient, trust ratio, rate inside the momentum."""
    gradients = [g + decay * w for g, w in zip(gradients, weights, strict=True)]
    trust = 1.0
    if adapted:
        weight_norm = math.sqrt(sum(w * w for w in weights))
        gradient_norm = math.sqrt(sum(g * g for g in gradients))
        if weight_norm > 0 and gradient_norm > 0:
            trust = 0.001 * weight_norm / gradient_norm
    speeds = [0.9 * v + RATE * trust * g for v, g in zip(speeds, gradients, strict=True)]
    return [w - v for w, v in zip(weights, speeds, strict=True)], speeds


def test_steps_follow_the_definition() -> None:
    torch.manual_seed(0)
    net = Net().double()
    optimizer = lars(parameter_groups(net.parameters(), DECAY))
    set_learning_rate(optimizer, RATE)
    expected = {name: (p.flatten().tolist(), [0.0] * p.numel()) for name, p in net.named_parameters()}
    for step in range(4):
        for name, parameter in net.named_parameters():
            parameter.grad = torch.randn_like(parameter) if step else torch.ones_like(parameter)
            matrix = parameter.ndim > 1
            expected[name] = literal_step(
                expected[name][0],
                parameter.grad.flatten().tolist(),
                expected[name][1],
                decay=DECAY if matrix else 0.0,
                adapted=matrix,
            )
        optimizer.step()
        for name, parameter in net.named_parameters():
            assert parameter.flatten().tolist() == pytest.approx(expected[name][0], rel=1e-12), name


def test_what_has_no_gradient_and_what_does_not_move() -> None:
    first, second = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = Lars([{"params": [first, second], "lr": 1.0}])
    first.grad = torch.zeros_like(first)
    optimizer.step()
    assert torch.equal(first, torch.ones(2, 2))
    assert torch.equal(second, torch.ones(2, 2))
    assert second not in optimizer.state


def test_a_tensor_that_starts_at_zero_takes_a_full_step() -> None:
    """Why LoRA is not trained with LARS: B is zero, A is not."""
    lora = LoRA(8, 8, 2)
    optimizer = lars(parameter_groups(lora.parameters(), DECAY, experts=lora.parameters()))
    set_learning_rate(optimizer, 1.697)
    before = {name: parameter.detach().clone() for name, parameter in lora.named_parameters()}
    for parameter in lora.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step()
    moved = {name: float((parameter.detach() - before[name]).norm()) for name, parameter in lora.named_parameters()}
    assert moved["q_b"] > 100 * moved["q_a"]


def test_a_resumed_run_goes_on_where_it_was() -> None:
    torch.manual_seed(0)
    gradients = [torch.randn(3, 4) for _ in range(4)]

    def run(steps: list[int], weight: nn.Parameter, optimizer: Lars) -> None:
        for step in steps:
            weight.grad = gradients[step].clone()
            optimizer.step()

    straight = nn.Parameter(torch.ones(3, 4))
    run([0, 1, 2, 3], straight, Lars([{"params": [straight], "lr": 0.5}]))
    first = nn.Parameter(torch.ones(3, 4))
    optimizer = Lars([{"params": [first], "lr": 0.5}])
    run([0, 1], first, optimizer)
    second = nn.Parameter(first.detach().clone())
    resumed = Lars([{"params": [second]}])
    resumed.load_state_dict(optimizer.state_dict())
    run([2, 3], second, resumed)
    assert torch.equal(second, straight)


def test_timm_agrees_while_the_rate_is_constant() -> None:
    """timm applies the rate after the momentum and takes the norm of the gradient before decay."""
    timm = pytest.importorskip("timm.optim.lars", reason="timm is not installed")
    torch.manual_seed(0)
    own, theirs = nn.Parameter(torch.randn(20, 30)), nn.Parameter(torch.empty(20, 30))
    theirs.data.copy_(own.data)
    mine = Lars([{"params": [own], "lr": RATE, "weight_decay": 1e-4}])
    other = timm.Lars([theirs], lr=RATE, momentum=0.9, weight_decay=1e-4, trust_coeff=0.001)
    start = own.detach().clone()
    for _ in range(100):
        own.grad = torch.randn(20, 30)
        theirs.grad = own.grad.clone()
        mine.step()
        other.step()
    assert float((own - theirs).detach().norm()) < 1e-3 * float((own.detach() - start).norm())
