"""The weights of products in bfloat16, cast together: once for all passes where they are frozen, else once per pass.

Autocast casts the weight of each layer by itself, those that are frozen in every forward pass anew, and the gradients
of the others back again one by one. Numbers are the same here, but a step of a few hundred weights launches two kernels
for that and not a thousand.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from samora_pipeline.models.lora import LoRA

_PRODUCTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, LoRA)
"""modules whose parameters autocast reduces; those of norms it does not"""


class ReducedWeights:
    """The weights below ``networks`` that products take on CUDA under autocast.

    Biases of frozen layers stay as they are: what adds them in float32 (``branch_products``) is to have all their
    digits.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        modules = dict.fromkeys(module for network in networks for module in network.modules())
        found = [
            (module, name)
            for module in modules
            if isinstance(module, _PRODUCTS)
            for name, value in module._parameters.items()
            if value is not None
        ]
        self._trained = [place for place in found if _value(place).requires_grad]
        self._frozen = [place for place in found if not _value(place).requires_grad and _value(place).ndim > 1]
        self._kept: list[Tensor] | None = None

    def prepare(self, device: torch.device, dtype: torch.dtype) -> None:
        """Cast what is frozen, which is held from now on, if ``used`` will use it."""
        if _is_reduced(device, dtype) and self._kept is None:
            self._kept = _cast([_value(place) for place in self._frozen], torch.bfloat16)

    @contextmanager
    def used(self, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
        """Within the context the modules have reduced weights, through which gradients reach the parameters.

        Forward and backward pass belong into one context. Nothing happens elsewhere than on CUDA, and in float32.
        """
        if not _is_reduced(device, dtype):
            yield
            return
        self.prepare(device, dtype)
        trained = _Cast.apply(*(_value(place) for place in self._trained)) if self._trained else ()
        places = [*self._trained, *self._frozen]
        before = [_value(place) for place in places]
        try:
            _put(places, [*trained, *(self._kept or ())])
            yield
        finally:
            _put(places, before)


def _is_reduced(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type == "cuda" and dtype == torch.bfloat16


def _value(place: tuple[nn.Module, str]) -> Any:
    return place[0]._parameters[place[1]]


def _put(places: Sequence[tuple[nn.Module, str]], values: Sequence[Any]) -> None:
    for (module, name), value in zip(places, values, strict=True):
        module._parameters[name] = value


@torch.no_grad()
def _cast(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    made = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    if made:
        torch._foreach_copy_(made, list(tensors))
    return made


class _Cast(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, *weights: Tensor) -> tuple[Tensor, ...]:
        context.set_materialize_grads(False)
        return tuple(_cast(weights, torch.bfloat16))

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        given = [gradient for gradient in gradients if gradient is not None]
        widened = iter(_cast(given, torch.float32))
        return tuple(None if gradient is None else next(widened) for gradient in gradients)
