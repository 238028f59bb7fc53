"""AdamW and its parameter groups: which parameters decay and which do not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import nn


class ParameterGroup(TypedDict):
    """One group of an optimizer; ``name`` says why its parameters are together."""

    name: str
    params: list[nn.Parameter]
    weight_decay: float


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float, *, experts: Iterable[nn.Parameter] = ()
) -> list[ParameterGroup]:
    """Sort the trainable parameters into at most three groups; frozen ones are left out, empty groups too.

    - ``weights``: matrices and kernels, decayed by ``weight_decay``.
    - ``vectors``: biases, norms and single tokens (one dimension), not decayed, as in MAE.
    - ``experts``: LoRA, not decayed: its product BA is the delta itself, and decay would draw it back to plain SAM.

    Args:
        parameters: all parameters of what is trained.
        weight_decay: of the first group.
        experts: those of them that belong to LoRA experts.
    """
    expert_ids = {id(parameter) for parameter in experts}
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    others = [parameter for parameter in trained if id(parameter) not in expert_ids]
    groups = [
        ParameterGroup(name="weights", params=[p for p in others if p.ndim > 1], weight_decay=weight_decay),
        ParameterGroup(name="vectors", params=[p for p in others if p.ndim <= 1], weight_decay=0.0),
        ParameterGroup(name="experts", params=[p for p in trained if id(p) in expert_ids], weight_decay=0.0),
    ]
    return [group for group in groups if group["params"]]


def adamw(groups: list[ParameterGroup], *, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """Return AdamW over the groups; the learning rate is set before each step by ``set_learning_rate``."""
    return torch.optim.AdamW([{**group} for group in groups], lr=0.0, betas=betas)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all groups the learning rate that a schedule returned."""
    for group in optimizer.param_groups:
        group["lr"] = rate
