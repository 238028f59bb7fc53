"""Tensors that say ``cuda:0`` and keep their numbers in main memory, or their shapes alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class Device(Protocol):
    """What tensors, attention and the backward pass need of the device."""

    device: torch.device
    node: str
    """the node of the graph whose backward pass is under way"""

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Compute one operation of ATen."""


_active: list[Device] = []


def activate(device: Device) -> None:
    """Make a device the one that new tensors belong to."""
    _active.append(device)


def deactivate(device: Device) -> None:
    """Undo ``activate``."""
    _active.remove(device)


def any_active() -> bool:
    return bool(_active)


def current() -> Device:
    """The innermost active device.

    Raises:
        RuntimeError: there is none.
    """
    if not _active:
        raise RuntimeError("a pretended CUDA tensor outlived its device")
    return _active[-1]


class CudaTensor(torch.Tensor):
    """Says ``cuda:0``; ``held`` has the numbers."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> CudaTensor:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device=current().device,
            requires_grad=False,
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.detach().cpu().tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"CudaTensor({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return current().run(func, args, kwargs or {})


def held(value: Any) -> Any:
    """What a pretended tensor holds; anything else as it is."""
    return value.held if isinstance(value, CudaTensor) else value


def on_meta(value: Any) -> Any:
    """A tensor of the CPU as a shape alone; anything else as it is."""
    return value.to("meta") if isinstance(value, torch.Tensor) and value.device.type == "cpu" else value


def same_strides(tensor: torch.Tensor, strides: Sequence[int]) -> bool:
    """Whether a tensor's strides are these wherever there is more than one element."""
    return all(size == 1 or a == b for size, a, b in zip(tensor.shape, tensor.stride(), strides, strict=True))


def is_dense(tensor: torch.Tensor) -> bool:
    """Whether the elements fill their memory once each, in whatever order."""
    expected = 1
    longer = ((stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size != 1)
    for stride, size in sorted(longer):
        if stride != expected:
            return tensor.numel() == 0
        expected *= size
    return True
