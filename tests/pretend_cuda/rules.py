"""What CUDA refuses, and where the host waits for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._pytree import tree_flatten

from tests.pretend_cuda.tensors import CudaTensor

_WAITS = {
    "_local_scalar_dense",
    "nonzero",
    "nonzero_static",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "equal",
    "is_nonzero",
    "linalg_eigh",
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_cholesky_ex",
    "histc",
}
_PRODUCTS = {
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "convolution",
    "convolution_backward",
    "addbmm",
    "mv",
    "dot",
}
_COPIES = ("copy_", "_to_copy", "set_", "_foreach_copy_")
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")
_STRICT = ("cat", "stack", "mm", "bmm", "addmm")
"""beginnings of operations that take no single number of the CPU either"""


def check_devices(name: str, args: Any, tensors: list[Any], device: torch.device) -> int:
    """Refuse tensors of two devices in one operation; return how many positions on the CPU an index waits for.

    Raises:
        RuntimeError: as CUDA says it.
    """
    if name in _COPIES or not any(isinstance(t, CudaTensor) for t in tensors):
        return 0
    strangers = [t for t in tensors if not isinstance(t, CudaTensor)]
    waits = 0
    if name in _INDEXED:  # positions may lie on the CPU, values may be single numbers
        if strangers and not isinstance(args[0], CudaTensor):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        places = set(map(id, tree_flatten(args[1])[0]))
        waits = sum(id(t) in places for t in strangers)
        strangers = [t for t in strangers if id(t) not in places]
    wrong = [(tuple(t.shape), str(t.dtype)) for t in strangers if t.ndim or name.startswith(_STRICT)]
    if wrong:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {device} and cpu! "
            f"({name}: {wrong})"
        )
    return waits


def waits(name: str, args: Any) -> bool:
    """Whether the host waits for an operation that copies nothing."""
    if name in _INDEXED:
        places, _ = tree_flatten(args[1])
        return any(isinstance(place, torch.Tensor) and place.dtype in (torch.bool, torch.uint8) for place in places)
    if name == "repeat_interleave":
        return isinstance(args[0] if len(args) == 1 else args[1], torch.Tensor)
    return name in _WAITS


def is_bf16_product(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operation is a product in bf16, which sums in single precision and rounds once.

    Raises:
        RuntimeError: a product of unequal types.
    """
    if name not in _PRODUCTS:
        return False
    types = {value.dtype for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)}
    if len(types) > 1:
        raise RuntimeError(f"expected inputs of {name} to have the same dtype, but got {types}")
    return torch.bfloat16 in types


def copied_pairs(name: str, args: Any, kwargs: Any, asked: torch.device | None) -> list[tuple[Any, bool, bool, bool]]:
    """The copies of an operation: source, whether it is on the device, whether its copy is, ``non_blocking``."""
    if name == "_to_copy":
        here = isinstance(args[0], CudaTensor)
        there = here if asked is None else asked.type == "cuda"
        return [(args[0], here, there, bool(kwargs.get("non_blocking")))]
    if name not in ("copy_", "_foreach_copy_"):
        return []
    patient = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
    targets, sources = (args[0], args[1]) if name == "_foreach_copy_" else ([args[0]], [args[1]])
    pairs = zip(targets, sources, strict=True)
    return [
        (source, isinstance(source, CudaTensor), isinstance(target, CudaTensor), patient) for target, source in pairs
    ]
