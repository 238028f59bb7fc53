"""LARS (arXiv 1708.03888) in the form of SimCLR, for the continual pre-training of the ResNet."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from samora_pipeline.optimization.optimizers import ParameterGroup

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
            for parameter in group["params"]:
                self._change(parameter, group)
        return loss

    def _change(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        if gradient is None:
            return
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        scaled = gradient * group["lr"]
        if group["adapted"]:
            scaled = scaled * _trust_ratio(parameter, gradient, group["trust"])
        buffer = state["momentum_buffer"]
        buffer.mul_(group["momentum"]).add_(scaled)
        parameter.sub_(buffer)


def lars(groups: list[ParameterGroup], *, momentum: float = 0.9) -> Lars:
    """Return LARS over the groups of ``parameter_groups``: ``vectors`` (norms, biases) neither decay nor are adapted.

    The learning rate is set before each step by ``set_learning_rate``.
    """
    return Lars([{**group, "adapted": group["name"] != "vectors"} for group in groups], momentum=momentum)


def _trust_ratio(weight: Tensor, gradient: Tensor, trust: float) -> Tensor:
    # Without a branch in Python, which would make the host wait for the device at every tensor.
    weight_norm, gradient_norm = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(gradient)
    ratio = trust * weight_norm / gradient_norm
    return torch.where((weight_norm > 0) & (gradient_norm > 0), ratio, torch.ones_like(ratio))
