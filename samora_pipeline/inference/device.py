"""The device that a command runs on: the precision of products there, the slices per step and the in-plane map.

Shapes: B slices, C channels, H W rows and columns of the source grid, N input size, K output maps, n side of logits.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn

from samora_pipeline.errors import ResourceError, UsageError
from samora_pipeline.imaging.resampling import OUTSIDE_LOGIT, InPlaneMap

Precision = Literal["auto", "bf16", "fp32"]

_CPUINFO = Path("/proc/cpuinfo")
# As /proc/cpuinfo calls them; "bf16" is that of ARM.
_BF16_FLAGS = ("amx_bf16", "avx512_bf16", "bf16")
_REFERENCE_PIXELS = 224 * 224
# A CPU gains nothing beyond the rows that fill its matrix products; more only leaves the caches.
_CPU_SLICES = 2
_CUDA_SLICES_PER_GIB = 4
_CUDA_SLICES = 64


class Arithmetic(NamedTuple):
    """The type in which convolutions and matrix products of a network are computed, and the reason."""

    dtype: torch.dtype
    why: str

    @property
    def name(self) -> str:
        """``bf16`` or ``fp32``."""
        return "bf16" if self.dtype == torch.bfloat16 else "fp32"


def pick_device(name: str | torch.device | None) -> torch.device:
    """Return the device called ``name``; None takes CUDA where it works, else the CPU. A device stays what it is.

    Raises:
        UsageError: ``E-DEV-01`` for something that is no device.
        ResourceError: ``E-DEV-02`` for a device that is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if isinstance(name, torch.device):
        return name
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError("E-DEV-01", name=name, found=name) from error
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= present:
        found = f"{present} CUDA devices, torch {torch.__version__}"
        raise ResourceError("E-DEV-02", name=name, index=device.index or 0, found=found)
    return device


def pick_arithmetic(device: torch.device, precision: Precision = "auto") -> Arithmetic:
    """Decide the precision: bfloat16 where the device multiplies in it, else single precision, unless it is forced.

    Without such instructions bfloat16 is emulated, which is correct and slower than single precision by far.
    """
    if precision != "auto":
        return Arithmetic(torch.bfloat16 if precision == "bf16" else torch.float32, "as asked for")
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Arithmetic(torch.bfloat16, f"{torch.cuda.get_device_name(device)} multiplies in bfloat16")
        return Arithmetic(torch.float32, f"{torch.cuda.get_device_name(device)} has no bfloat16")
    if instructions := cpu_bf16_instructions():
        return Arithmetic(torch.bfloat16, f"this CPU has {instructions}")
    return Arithmetic(torch.float32, "this CPU has neither avx512_bf16 nor amx_bf16")


def cpu_bf16_instructions() -> str:
    """Name the instructions with which this CPU multiplies in bfloat16; empty when it has none."""
    if _CPUINFO.is_file():
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
        # "flags" on x86, "Features" on ARM; all cores are alike, so the first line is enough.
        listed = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
        flags = set(listed.partition(":")[2].split())
        return next((flag for flag in _BF16_FLAGS if flag in flags), "")
    # Elsewhere torch's own test; it knows AVX-512 and AMX.
    if torch.cpu._is_amx_tile_supported():
        return "amx_bf16"
    return "avx512_bf16" if torch.cpu._is_avx512_bf16_supported() else ""


def pick_batch(device: torch.device, input_size: int) -> int:
    """Slices of ``input_size`` pixels a side per step: as many pixels as 2 slices of 224 on a CPU, and on CUDA as
    4 of them per GiB of free memory, at most 64."""
    slices = _CPU_SLICES
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        slices = min(_CUDA_SLICES, int(_CUDA_SLICES_PER_GIB * free / 2**30))
    return max(1, round(slices * _REFERENCE_PIXELS / input_size**2))


def prepared(network: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """The network on the device; weights that autocast would convert at every call are stored converted."""
    network = network.to(device).eval()
    if dtype != torch.float32:
        for module in network.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
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
        return torch.from_numpy(matrix.copy()).to(self._device)
