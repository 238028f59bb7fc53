"""AdamW, LARS (arXiv 1708.03888, in the form of SimCLR), their parameter groups and their learning rates.

Learning rates are pure functions of the iteration, which counts from 1, and of the batch.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn


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
    decay_all: bool = False,
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
        decay_all: decay vectors and experts too, as the codes of SAMed and H-SAM do.
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
    if decay_all:
        groups = [ParameterGroup(**{**group, "weight_decay": weight_decay}) for group in groups]
    return [group for group in groups if group["params"]]


def _by_kind(prefix: str, parameters: list[nn.Parameter], weight_decay: float, rate: float) -> list[ParameterGroup]:
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    return [
        ParameterGroup(name=f"{prefix}weights", params=matrices, weight_decay=weight_decay, rate=rate),
        ParameterGroup(name=f"{prefix}vectors", params=vectors, weight_decay=0.0, rate=rate),
    ]


def adamw(groups: list[ParameterGroup], *, betas: tuple[float, float] = (0.9, 0.999)) -> torch.optim.AdamW:
    """Return AdamW over the groups; the learning rate is set before each step by ``set_learning_rate``.

    On CUDA it is torch's fused one: a few kernels for all tensors, where the usual one takes a dozen for each list.
    """
    fused = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return torch.optim.AdamW([{**group} for group in groups], lr=0.0, betas=betas, fused=fused or None)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its share of the learning rate that a schedule returned: all of it, where none is named."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("rate", 1.0)


TRUST = 0.001


class Lars(torch.optim.Optimizer):
    """Momentum whose steps are scaled tensor by tensor to the length of what they change.

    With g the gradient plus ``weight_decay`` times the weight w: v = momentum v + lr r g and w = w - v, where the trust
    ratio r is ``trust`` |w| / |g| in groups that are ``adapted`` and 1 in the others, also where |w| or |g| is 0
    (google-research/simclr, lars_optimizer.py, classic momentum). A tensor that starts at zero, as LoRA's B does,
    therefore takes a first step that is not scaled down.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], *, momentum: float = 0.9, trust: float = TRUST) -> None:
        super().__init__(
            groups, {"lr": 0.0, "weight_decay": 0.0, "adapted": True, "momentum": momentum, "trust": trust}
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step; parameters without a gradient stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._change(parameters, group)
        return loss

    def _change(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """All tensors of a group together, so that a GPU is asked a few times and not for each of them."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        scaled = torch._foreach_mul(gradients, group["lr"])
        if group["adapted"]:
            ratios = _trust_ratios(parameters, gradients, group["trust"]).unbind()
            scaled = tuple(one * ratio for one, ratio in zip(scaled, ratios, strict=True))
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, scaled)
        torch._foreach_sub_(parameters, buffers)


def lars(groups: list[ParameterGroup], *, momentum: float = 0.9) -> Lars:
    """Return LARS over the groups of ``parameter_groups``: ``vectors`` (norms, biases) neither decay nor are adapted.

    The learning rate is set before each step by ``set_learning_rate``.
    """
    return Lars([{**group, "adapted": group["name"] != "vectors"} for group in groups], momentum=momentum)


def _trust_ratios(weights: list[Tensor], gradients: list[Tensor], trust: float) -> Tensor:
    """One ratio for each tensor, (n,)."""
    # Without a branch in Python, which would make the host wait for the device at every tensor.
    weight_norms, gradient_norms = (torch.stack(torch._foreach_norm(part)) for part in (weights, gradients))
    ratios = trust * weight_norms / gradient_norms
    return torch.where((weight_norms > 0) & (gradient_norms > 0), ratios, torch.ones_like(ratios))


WarmupUnit = Literal["fraction", "epochs", "steps"]

_LINEAR_RULE_BATCH = 256


def warmup_polynomial(iteration: int, *, base: float, warmup: int, iterations: int, exponent: float = 1.0) -> float:
    """Eq. 11 of SAMora: linear warm-up, then base * (1 - (T - WP) / MI) ** exponent.

    The printed equation has exponent 1; SAMed's and H-SAM's code has 0.9. As printed, the warm-up is not taken off
    MI, so the last of MI iterations still has base * (WP / MI) ** exponent.

    Args:
        iteration: T, from 1.
        base: I_lr, the rate at the end of the warm-up.
        warmup: WP, in iterations; 0 for none.
        iterations: MI, all iterations of the run.
        exponent: of the decay.
    """
    if iteration <= warmup:
        return base * iteration / warmup
    left = 1.0 - (iteration - warmup) / iterations
    return float(base * max(0.0, left) ** exponent)


def warmup_cosine(iteration: int, *, base: float, warmup: int, iterations: int) -> float:
    """Linear warm-up over ``warmup`` iterations, then half a cosine down to 0 at ``iterations`` (SimCLRv2, MAE)."""
    if iteration <= warmup:
        return base * iteration / warmup
    share = min(1.0, (iteration - warmup) / max(1, iterations - warmup))
    return base * 0.5 * (1.0 + math.cos(math.pi * share))


def square_root_rate(base: float, batch: int) -> float:
    """SimCLRv2's rule for the learning rate: base * sqrt(batch), 1.697 for 0.075 at a batch of 512."""
    return base * math.sqrt(batch)


def linear_rate(base: float, batch: int) -> float:
    """MAE's rule for the learning rate: base * batch / 256, 3e-4 for 1.5e-4 at a batch of 512."""
    return base * batch / _LINEAR_RULE_BATCH


def warmup_iterations(value: float, unit: WarmupUnit, *, steps_per_epoch: int, epochs: int) -> int:
    """Return the length of a warm-up in iterations, never longer than the run.

    Args:
        value: of the warm-up; 0 for none.
        unit: ``fraction`` of the run, ``epochs``, or ``steps``.
        steps_per_epoch: iterations of one epoch.
        epochs: of the run.
    """
    iterations = steps_per_epoch * epochs
    factor = {"fraction": iterations, "epochs": steps_per_epoch, "steps": 1}[unit]
    return min(iterations, round(value * factor))
