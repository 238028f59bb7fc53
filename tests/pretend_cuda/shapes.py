"""Operations without numbers: shapes alone, and what they would have cost."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.flop_counter import flop_registry

from tests.pretend_cuda.launches import is_view, written
from tests.pretend_cuda.ledger import Ledger
from tests.pretend_cuda.tensors import on_meta

aten = torch.ops.aten
_MADE_UP_CLASSES = 9


def run_shapes(func: Any, args: Any, kwargs: dict[str, Any], asked: torch.device | None, ledger: Ledger) -> Any:
    """The result of an operation on meta tensors. A number that the host reads is 1, a boolean choice takes all."""
    name = func.overloadpacket.__name__
    made_up = _seen_by_the_host(name, args, kwargs, asked)
    if made_up is not None:
        return made_up
    kwargs.pop("generator", None)
    args, kwargs = tree_map(on_meta, args), tree_map(on_meta, kwargs)
    if name in ("randn", "rand", "randint"):
        func = getattr(getattr(aten, name), "low" if name == "randint" and len(args) > 2 else "default")
    chosen = _size_by_values(name, args, kwargs)
    if chosen is not None:
        return chosen
    result = func(*args, **kwargs)
    if not is_view(func):
        _note_cost(func, args, kwargs, result, ledger)
    return result


def _seen_by_the_host(name: str, args: Any, kwargs: Any, asked: torch.device | None) -> Any:
    if name == "_local_scalar_dense":
        return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 1
    if name in ("_to_copy", "copy_") and asked is not None and asked.type == "cpu":
        return torch.ones(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
    return None


def _size_by_values(name: str, args: Any, kwargs: Any) -> Any:
    """Results whose size depends on values."""
    whole: dict[str, Any] = {"dtype": torch.int64, "device": "meta"}
    if name == "_unique2":
        found = torch.empty(min(_MADE_UP_CLASSES, args[0].numel()), dtype=args[0].dtype, device="meta")
        return found, torch.empty(0, **whole), torch.empty_like(found, dtype=torch.int64)
    if name == "bincount":
        return torch.empty(max(1, kwargs.get("minlength", args[2] if len(args) > 2 else 1)), **whole)
    if name == "index" and any(t is not None and t.dtype == torch.bool for t in args[1]):
        return args[0].new_empty(args[0].numel())
    return None


def _note_cost(func: Any, args: Any, kwargs: Any, result: Any, ledger: Ledger) -> None:
    flat, _ = tree_flatten((args, kwargs, result))
    if not func._schema.returns:  # what is written in place and not returned, as by foreach
        flat += tree_flatten(list(written(func, args)))[0]
    tensors = [value for value in flat if isinstance(value, torch.Tensor)]
    counted = flop_registry.get(func.overloadpacket)
    flops = counted(*args, **kwargs, out_val=result) if counted else 0
    name = func.overloadpacket.__name__
    kind = name if flops else ("norm/softmax" if "norm" in name or "softmax" in name else "pointwise etc")
    dtype = next((str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()), "int")
    entry = ledger.costs.setdefault((kind, dtype), [0, 0.0, 0.0])
    entry[0] += 1
    entry[1] += flops
    entry[2] += sum(t.numel() * t.element_size() for t in tensors)
