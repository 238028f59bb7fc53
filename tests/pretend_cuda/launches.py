"""How many kernels an operation launches on CUDA, by torch's own rule.

An operation of ATen that is neither a view nor an empty allocation is one launch, a copy too. A foreach or a fused
optimizer call is torch's own loop (ATen/native/cuda/MultiTensorApply.cuh): per launch as many tensors as fit, by the
number of lists, and as many chunks of 65,536 elements. Where torch would leave that way (types, strides or devices
differ) it is one launch per tensor. A foreach norm has three more: two zeros and the clean-up. The inner kernels of
libraries (split-k, cuDNN's, sorts) are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from tests.pretend_cuda.tensors import CudaTensor, is_dense, same_strides

# By CUDA's major version at build time: tensors per launch by number of lists, the same where each tensor has a scalar
# of its own, and chunks per launch.
_PER_LAUNCH = {
    12: ((110, 64, 48, 36, 30), (96, 64, 48, 36, 30), 320),
    13: ((770, 448, 336, 252, 210), (672, 448, 336, 252, 210), 2240),
}
CHUNK = 65536
"""elements"""
_NORM_EXTRA = 3
_ONE_LIST = ("_foreach_norm", "_foreach_max")

_views: dict[Any, bool] = {}
_NO_WORK = {
    "detach",
    "_unsafe_view",
    "lift_fresh",
    "empty",
    "empty_like",
    "empty_strided",
    "empty_permuted",
    "new_empty",
    "new_empty_strided",
    "is_same_size",
    "_version",
    "alias",
}


def multi_tensor_launches(sizes: Iterable[int], lists: int, *, scalars: bool = False, cuda: int = 13) -> int:
    """The launches of one foreach call over tensors of ``sizes`` elements in as many lists.

    ``scalars``: whether each tensor has a scalar of its own.
    """
    plain, with_scalars, most_chunks = _PER_LAUNCH[13 if cuda >= 13 else 12]
    most_tensors = (with_scalars if scalars else plain)[min(lists, 5) - 1]
    launches = tensors = chunks = 0
    for size in sizes:
        own = -(-size // CHUNK)
        if not own:
            continue
        tensors += 1
        for chunk in range(1, own + 1):
            chunks += 1
            if chunks == most_chunks or (tensors == most_tensors and chunk == own):
                launches += 1
                chunks, tensors = 0, int(chunk < own)
    return launches + (chunks > 0)


def launches_of(func: Any, args: Any, cuda: int) -> int:
    """The launches of one operation."""
    name = func.overloadpacket.__name__
    if name.startswith("_foreach_"):
        return _foreach_launches(func, name, args, cuda)
    if name.startswith("_fused_") and isinstance(args[0], (list, tuple)):
        named = zip(func._schema.arguments, args, strict=False)
        lists = [value for argument, value in named if argument.name != "state_steps" and _is_list(value)]
        return multi_tensor_launches([t.numel() for t in args[0]], len(lists), cuda=cuda)
    return 0 if is_view(func) else 1


def is_view(func: Any) -> bool:
    """Whether an operation does no work on the device."""
    if func not in _views:
        returned = func._schema.returns
        view = bool(returned) and returned[0].alias_info is not None and not returned[0].alias_info.is_write
        _views[func] = view or func.overloadpacket.__name__ in _NO_WORK
    return _views[func]


def written(func: Any, args: Any) -> Iterator[Any]:
    """The arguments that an operation writes to."""
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield value


def _foreach_launches(func: Any, name: str, args: Any, cuda: int) -> int:
    lists = [value for value in args if _is_list(value) and isinstance(value[0], torch.Tensor)]
    if not _goes_together(lists, types_differ=name == "_foreach_copy_"):
        return len(lists[0])
    single = name in _ONE_LIST
    scalars = any(_is_list(value) and not isinstance(value[0], torch.Tensor) for value in args)
    depth = len(lists) + (bool(func._schema.returns) and not single)
    sizes = [tensor.numel() for tensor in lists[0]]
    launches = multi_tensor_launches(sizes, depth, scalars=scalars or _is_list_of_scalars(args), cuda=cuda)
    return launches + _NORM_EXTRA * single


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) > 0


def _is_list_of_scalars(args: Any) -> bool:
    """Whether the last argument is a CPU tensor with a scalar for each tensor."""
    return isinstance(args[-1], torch.Tensor) and args[-1].ndim == 1


def _goes_together(lists: list[Any], *, types_differ: bool) -> bool:
    """Whether CUDA takes a foreach call the fast way: one device and type, dense, corresponding strides equal."""
    first = lists[0]
    for own in lists:
        for tensor, model in zip(own, first, strict=True):
            if not isinstance(tensor, CudaTensor) or not is_dense(tensor) or tensor.shape != model.shape:
                return False
            if tensor.dtype != own[0].dtype or (tensor.dtype != first[0].dtype and not types_differ):
                return False
            if not same_strides(tensor, model.stride()):
                return False
    return True
