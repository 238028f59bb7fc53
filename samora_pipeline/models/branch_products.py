"""Products of branches that differ little, in a type with few digits: of the first one, and of the differences.

bfloat16 has 8 digits (binary): two outputs near each other are each rounded by up to 2^-9 of their size, and their
difference, which is what a fusion of LoRA experts looks at, is noise where the LoRA is small (for a delta of a
hundredth of the weights: as large as the difference itself). A linear layer maps differences to differences, so
W x_i = W x_0 + W (x_i - x_0): as many operations, and each difference is rounded by its own size. Everything that is
not a linear layer (norms, softmax, the products of attention, GELU) is computed in float32.

Shapes: k branches; n anything per branch; D width.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


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
        base, *others = x.float().chunk(self._branches)
        differences = torch.cat([base, *(other - base for other in others)])
        products = functional.linear(differences.to(self._dtype), weight.to(self._dtype)).float()
        first, *rest = products.chunk(self._branches)
        if bias is not None:
            first = first + bias.float()
        return torch.cat([first, *(first + part for part in rest)])


@contextmanager
def by_differences(branches: int, x: Tensor) -> Iterator[None]:
    """Where autocast reduces products on the device of ``x``: linear layers take ``branches`` and reduce them by
    ``BranchProducts``, and everything else is computed in float32. Elsewhere nothing changes, bit by bit."""
    device = x.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        yield
        return
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False), BranchProducts(branches, dtype):
        yield


def widened(x: Tensor) -> Tensor:
    """``x`` in float32 where it has fewer digits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
