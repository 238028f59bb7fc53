"""The device that a command runs on: the slices per step there and the in-plane map. Precision: ``precision.py``.

Shapes: B slices, C channels, H W rows and columns of the source grid, N input size, K output maps, n side of logits.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn

from samora_pipeline.errors import ResourceError, UsageError
from samora_pipeline.imaging.resampling import OUTSIDE_LOGIT, InPlaneMap
from samora_pipeline.transfers import to_device

_DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/dev/dxg"))
"""what an NVIDIA driver shows, on Linux and inside Windows (WSL 2)"""
_GPUS_FOR_CONTAINER = "start the container with its GPUs (docker run --gpus all)"
_REFERENCE_PIXELS = 224 * 224
# A CPU gains nothing beyond the rows that fill its matrix products; more only leaves the caches.
_CPU_SLICES = 2
_CUDA_SLICES_PER_GIB = 4
_CUDA_SLICES = 64
_PRODUCTS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, nn.Conv3d, nn.ConvTranspose3d)


class NoCuda(NamedTuple):
    """Why there is no CUDA device: what was found, what would change that (empty: nothing known), and whether there is
    a driver, so that a GPU may be expected."""

    found: str
    remedy: str
    driver: bool = True


def pick_device(name: str | torch.device | None) -> torch.device:
    """Return the device called ``name``; None takes CUDA where it works, else the CPU. A device stays what it is.

    Raises:
        UsageError: ``E-DEV-01`` for something that is no device, ``E-DEV-04`` for one of another kind (mps, xpu).
        ResourceError: ``E-DEV-02`` for a number that no device has, ``E-DEV-03`` where there is no CUDA device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError("E-DEV-01", name=name, found=str(name)) from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError("E-DEV-04", name=name, found=str(name))
    if isinstance(name, torch.device) or device.type == "cpu":
        return device
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not present:
        why = why_no_cuda()
        raise ResourceError("E-DEV-03", name=name, remedy=why.remedy or "a machine with a GPU", found=why.found)
    if (device.index or 0) >= present:
        raise ResourceError("E-DEV-02", name=name, present=present, found=f"{present} CUDA devices")
    return device


def why_no_cuda() -> NoCuda:
    """What stands between torch and a GPU. Without a driver nothing is wrong with torch, however it was built."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not any(sign.exists() for sign in _DRIVERS):
        remedy = _GPUS_FOR_CONTAINER if _in_container() else ""
        return NoCuda(f"no NVIDIA driver (no {' and no '.join(map(str, _DRIVERS))})", remedy, driver=False)
    if torch.version.cuda is None:
        built = f"an NVIDIA driver, but torch {torch.__version__} is built without CUDA"
        return NoCuda(built, "install the CUDA builds of torch and torchvision (pytorch.org)")
    if visible is not None:
        hidden = f"an NVIDIA driver, but no device of it in CUDA_VISIBLE_DEVICES={visible!r}"
        return NoCuda(hidden, "unset CUDA_VISIBLE_DEVICES, or name a device in it that nvidia-smi -L lists")
    finds = f"an NVIDIA driver, but torch (CUDA {torch.version.cuda}) finds no device"
    newer = "nvidia-smi  shows whether the driver is new enough for that CUDA"
    return NoCuda(finds, _GPUS_FOR_CONTAINER if _in_container() else newer)


def _in_container() -> bool:
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))


def pick_batch(device: torch.device, input_size: int) -> int:
    """Slices of ``input_size`` pixels a side per step: as many pixels as 2 slices of 224 on a CPU, and on CUDA as
    4 of them per GiB of free memory, at most 64."""
    slices = _CPU_SLICES
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        slices = min(_CUDA_SLICES, int(_CUDA_SLICES_PER_GIB * free / 2**30))
    return max(1, round(slices * _REFERENCE_PIXELS / input_size**2))


def memory_left(device: torch.device) -> str:
    """What is known of the memory of a device, in words for an error."""
    if device.type != "cuda":
        return "an allocation that failed"
    free, total = torch.cuda.mem_get_info(device)
    return f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"


@contextmanager
def room_for(what: str, device: torch.device, command: str) -> Iterator[None]:
    """Within the context memory that runs out is an error in the user's words; ``command`` is what mends it.

    Raises:
        ResourceError: ``E-MEM-21`` the device does not hold ``what``.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        left = memory_left(device)
        raise ResourceError("E-MEM-21", device=device, what_for=what, command=command, found=left) from error


def prepared(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network on the device; weights that autocast would convert at every call are stored converted."""
    network = network.to(device).eval()
    if dtype != torch.float32:
        for module in network.modules():
            if isinstance(module, _PRODUCTS):
                module.to(dtype)
    return network


class DeviceMap:
    """``InPlaneMap`` with its operators on a device; equal to it up to rounding."""

    def __init__(self, in_plane: InPlaneMap, device: torch.device, *, regions: bool) -> None:
        self._in_plane = in_plane
        self._device = device
        self._regions = regions
        self._image_rows, self._image_columns = (self._on_device(matrix) for matrix in in_plane.image_operators)
        outside = ~in_plane.field_of_view
        self._outside = self._on_device(outside) if outside.any() else None

    def image(self, images: Tensor) -> Tensor:
        """Resize images (B,C,H,W) in [0, 1] to (B,C,N,N), clipped to [0, 1]."""
        return (self._image_rows @ images @ self._image_columns.T).clamp_(0.0, 1.0)

    def logits(self, logits: Tensor) -> Tensor:
        """Interpolate logits (B,K,n,n) to the source grid (B,K,H,W); outside the field of view is background."""
        rows, columns = (self._on_device(matrix) for matrix in self._in_plane.logit_operators(logits.shape[-1]))
        scores: Tensor = rows @ logits @ columns.T
        if self._outside is not None:
            scores.masked_fill_(self._outside, -OUTSIDE_LOGIT)
            if not self._regions:
                scores[:, 0].masked_fill_(self._outside, OUTSIDE_LOGIT)
        return scores

    def _on_device(self, matrix: npt.NDArray[Any]) -> Tensor:
        # A copy, because cached operators are read-only and torch warns about sharing such memory.
        return to_device(torch.from_numpy(matrix.copy()), self._device)
