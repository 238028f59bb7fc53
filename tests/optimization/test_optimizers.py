from __future__ import annotations

import torch
from torch import nn

from samora_pipeline.models.lora import LoRA
from samora_pipeline.optimization.optimizers import adamw, parameter_groups, set_learning_rate


class Part(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.convolution = nn.Conv2d(4, 4, 3)
        self.norm = nn.GroupNorm(2, 4)
        self.token = nn.Parameter(torch.ones(4))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.lora = LoRA(4, 4, 2)


def step(part: Part, optimizer: torch.optim.Optimizer, *, gradient: float) -> dict[str, torch.Tensor]:
    """One step at a rate of 0.1 with the same gradient everywhere; return the parameters as they were."""
    before = {name: parameter.detach().clone() for name, parameter in part.named_parameters()}
    for parameter in part.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, gradient)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    return before


def test_every_trainable_parameter_is_in_the_group_that_its_kind_belongs_to() -> None:
    part = Part()
    groups = parameter_groups(part.parameters(), 0.05, experts=part.lora.parameters())
    names = {id(parameter): name for name, parameter in part.named_parameters()}
    found = {g["name"]: ({names[id(p)] for p in g["params"]}, g["weight_decay"]) for g in groups}
    assert found == {
        "weights": ({"linear.weight", "convolution.weight"}, 0.05),
        "vectors": ({"linear.bias", "convolution.bias", "norm.weight", "norm.bias", "token"}, 0.0),
        "experts": ({"lora.q_a", "lora.q_b", "lora.v_a", "lora.v_b"}, 0.0),
    }


def test_everything_decays_where_a_public_code_has_it_so() -> None:
    part = Part()
    groups = parameter_groups(part.parameters(), 0.1, experts=part.lora.parameters(), decay_all=True)
    assert {group["name"]: group["weight_decay"] for group in groups} == {
        "weights": 0.1,
        "vectors": 0.1,
        "experts": 0.1,
    }


def test_the_fusion_has_groups_and_a_rate_of_its_own() -> None:
    part = Part()
    groups = parameter_groups(part.parameters(), 0.5, fusion=part.linear.parameters(), fusion_rate=0.25)
    kinds = {group["name"]: (group["weight_decay"], group["rate"], len(group["params"])) for group in groups}
    assert kinds == {
        "weights": (0.5, 1.0, 5),  # the kernel and, named nowhere, the four of LoRA
        "vectors": (0.0, 1.0, 4),
        "fusion weights": (0.5, 0.25, 1),
        "fusion vectors": (0.0, 0.25, 1),
    }


def test_the_step_of_the_fusion_is_its_share_of_the_others() -> None:
    part = Part()
    optimizer = adamw(parameter_groups(part.parameters(), 0.0, fusion=part.linear.parameters(), fusion_rate=0.25))
    before = step(part, optimizer, gradient=1.0)
    for name, parameter in part.named_parameters():
        if parameter.requires_grad:
            # The first step of Adam is the rate itself, whatever the gradient's size.
            moved = 0.025 if name.startswith("linear.") else 0.1
            torch.testing.assert_close(before[name] - parameter.detach(), torch.full_like(parameter, moved))


def test_empty_groups_are_left_out() -> None:
    lora = LoRA(4, 4, 2)
    assert [group["name"] for group in parameter_groups(lora.parameters(), 0.1, experts=lora.parameters())] == [
        "experts"
    ]


def test_only_weights_shrink_without_a_gradient() -> None:
    part = Part()
    optimizer = adamw(parameter_groups(part.parameters(), 0.5, experts=part.lora.parameters()), betas=(0.9, 0.95))
    before = step(part, optimizer, gradient=0.0)
    for name, parameter in part.named_parameters():
        factor = 0.95 if name in ("linear.weight", "convolution.weight") else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)
    assert {(group["lr"], group["betas"]) for group in optimizer.param_groups} == {(0.1, (0.9, 0.95))}
