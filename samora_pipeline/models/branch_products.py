"""Products of branches that differ little, in a type with few digits: of the first one, and of the differences.

bfloat16 has 8 digits (binary): two outputs near each other are each rounded by up to 2^-9 of their size, and their
difference, which is what a fusion of LoRA experts looks at, is noise where the LoRA is small (for a delta of a
hundredth of the weights: as large as the difference itself). A linear layer maps differences to differences, so
W x_i = W x_0 + W (x_i - x_0): as many operations, and each difference is rounded by its own size. Everything that is
not a linear layer (norms, softmax, the products of attention, GELU) is computed in float32.

Shapes: k branches; n anything per branch; D and D' width of input and output.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


def branch_linear(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype | None) -> Tensor:
    """A linear layer on k branches (k,...,D), base first, to (k,...,D').

    Where ``dtype`` is named, base and differences are multiplied in it and the result is float32; None: all in the
    type of ``x``, as ever.
    """
    if dtype is None:
        return functional.linear(x, weight, bias)
    output: Tensor = _BranchLinear.apply(x, weight, bias, dtype)
    return output


def branch_mlp(x: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
    """Two linear layers (weight, bias), both frozen, with GELU between them, on k branches (k,...,D) to (k,...,D').

    As two of ``branch_linear``. Of the wide layer in between nothing is kept but its products, in ``dtype``.
    """
    output: Tensor = _BranchMlp.apply(x, *first, *second, dtype)
    return output


def _differences(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The base and what the other branches differ from it, each rounded by its own size."""
    differences = torch.empty(x.shape, dtype=dtype, device=x.device)
    differences[0].copy_(x[0])
    if len(x) > 1:
        torch.sub(x[1:].float(), x[:1].float(), out=differences[1:])
    return differences


def _sums(products: Tensor, bias: Tensor | None) -> Tensor:
    """The branches again, in float32, from products of base and differences; the bias is the base's."""
    sums = torch.empty(products.shape, dtype=torch.float32, device=products.device)
    if bias is None:
        sums[0].copy_(products[0])
    else:
        torch.add(products[0], bias.float(), out=sums[0])
    if len(products) > 1:
        torch.add(products[1:], sums[:1], out=sums[1:])
    return sums


class _BranchLinear(torch.autograd.Function):
    """In the backward pass each branch's gradient is rounded by its own size, so it needs no differences.

    Nothing but the reduced weight is kept, and the differences where the weight itself learns.
    """

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        differences, reduced = _differences(x, dtype), weight.to(dtype)
        context.save_for_backward(reduced, differences if weight.requires_grad else None)
        context.types = x.dtype, weight.dtype, None if bias is None else bias.dtype
        return _sums(differences @ reduced.t(), bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        reduced, differences = context.saved_tensors
        of_x, of_weight, of_bias = context.types
        wants_x, wants_weight, wants_bias, _ = context.needs_input_grad
        own = gradients[0].to(reduced.dtype)
        x = (own @ reduced).to(of_x) if wants_x else None
        weight = bias = None
        if wants_weight or wants_bias:
            base = gradients[0].sum(0)
            bias = base.flatten(0, -2).sum(0).to(of_bias) if wants_bias else None
        if wants_weight:
            rows = torch.cat((base.to(own.dtype)[None], own[1:])).flatten(0, -2)
            weight = (rows.t() @ differences.flatten(0, -2)).to(of_weight)
        return x, weight, bias, None


class _BranchMlp(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, x: Tensor, weight_1: Tensor, bias_1: Tensor, weight_2: Tensor, bias_2: Tensor, dtype: torch.dtype
    ) -> Tensor:
        first, second = weight_1.to(dtype), weight_2.to(dtype)
        products = _differences(x, dtype) @ first.t()
        context.save_for_backward(products, first, bias_1, second)
        context.of_x = x.dtype
        return _sums(_differences(functional.gelu(_sums(products, bias_1)), dtype) @ second.t(), bias_2)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        products, first, bias, second = context.saved_tensors
        inner = gradients[0].to(second.dtype) @ second
        slope = torch.ops.aten.gelu_backward(inner, _sums(products, bias))
        return (slope.to(first.dtype) @ first).to(context.of_x), None, None, None, None, None


class BranchProducts(TorchFunctionMode):
    """Within the context every linear layer takes k branches (k n,...,D), base first, and gives float32."""

    def __init__(self, branches: int, dtype: torch.dtype) -> None:
        super().__init__()
        self._branches, self._dtype = branches, dtype

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.linear:
            return self._linear(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        branches = torch.unflatten(x, 0, (self._branches, -1))
        return branch_linear(branches, weight, bias, self._dtype).flatten(0, 1)


def reduced_type(x: Tensor) -> torch.dtype | None:
    """The type to which autocast reduces products on the device of ``x``; None where it does not."""
    device = x.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return None
    return torch.get_autocast_dtype(device)


def reduced(x: Tensor) -> Tensor:
    """``x`` as autocast would reduce it for a product: for several products of it, which would each do so again."""
    dtype = reduced_type(x)
    return x if dtype is None or not x.is_floating_point() else x.to(dtype)


@contextmanager
def by_differences(branches: int, x: Tensor) -> Iterator[None]:
    """Where autocast reduces products on the device of ``x``: linear layers take ``branches`` and reduce them by
    ``BranchProducts``, and everything else is computed in float32. Elsewhere nothing changes, bit by bit."""
    dtype = reduced_type(x)
    if dtype is None:
        yield
        return
    with torch.autocast(x.device.type, enabled=False), BranchProducts(branches, dtype):
        yield


def widened(x: Tensor) -> Tensor:
    """``x`` in float32 where it has fewer digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
