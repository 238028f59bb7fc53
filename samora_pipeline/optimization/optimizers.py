"""AdamW and its parameter groups: which parameters decay and which do not."""

from collections.abc import Iterable
from typing import TypedDict

import torch
from torch import nn


class ParameterGroup(TypedDict):
    """One group of an optimizer; ``name`` says why its parameters are together.

    Its learning rate is ``rate`` times that of the schedule.
    """

    name: str
    params: list[nn.Parameter]
    weight_decay: float
    rate: float


def parameter_groups(
    parameters: Iterable[nn.Parameter],
    weight_decay: float,
    *,
    experts: Iterable[nn.Parameter] = (),
    fusion: Iterable[nn.Parameter] = (),
    fusion_rate: float = 1.0,
) -> list[ParameterGroup]:
    """Sort the trainable parameters into groups; frozen ones are left out, empty groups too.

    - ``weights``: matrices and kernels, decayed by ``weight_decay``.
    - ``vectors``: biases, norms and single tokens (one dimension), not decayed, as in MAE.
    - ``experts``: LoRA, not decayed: its product BA is the delta itself, and decay would draw it back to plain SAM.
    - ``fusion weights`` and ``fusion vectors``: those of the fusions, decayed alike, at a rate of their own.

    Args:
        parameters: all parameters of what is trained.
        weight_decay: of matrices and kernels.
        experts: those of the parameters that belong to LoRA experts.
        fusion: those that belong to fusions.
        fusion_rate: what the learning rate of ``fusion`` is multiplied by.
    """
    expert_ids, fusion_ids = ({id(parameter) for parameter in own} for own in (experts, fusion))
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    of_experts = [parameter for parameter in trained if id(parameter) in expert_ids]
    of_fusion = [parameter for parameter in trained if id(parameter) in fusion_ids]
    others = [parameter for parameter in trained if id(parameter) not in expert_ids | fusion_ids]
    groups = [
        *_by_kind("", others, weight_decay, 1.0),
        ParameterGroup(name="experts", params=of_experts, weight_decay=0.0, rate=1.0),
        *_by_kind("fusion ", of_fusion, weight_decay, fusion_rate),
    ]
    return [group for group in groups if group["params"]]


def _by_kind(prefix: str, parameters: list[nn.Parameter], weight_decay: float, rate: float) -> list[ParameterGroup]:
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        ParameterGroup(name=f"{prefix}weights", params=matrices, weight_decay=weight_decay, rate=rate),
        ParameterGroup(name=f"{prefix}vectors", params=vectors, weight_decay=0.0, rate=rate),
    ]


def adamw(groups: list[ParameterGroup], *, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """Return AdamW over the groups; the learning rate is set before each step by ``set_learning_rate``."""
    return torch.optim.AdamW([{**group} for group in groups], lr=0.0, betas=betas)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its share of the learning rate that a schedule returned: all of it, where none is named."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate", 1.0)
