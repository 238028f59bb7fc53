"""The device that a command runs on."""

from __future__ import annotations

import torch

from samora_pipeline.errors import ResourceError, UsageError


def pick_device(name: str | None) -> torch.device:
    """Return the device called ``name``; None takes CUDA where it works, else the CPU.

    Raises:
        UsageError: ``E-DEV-01`` for something that is no device.
        ResourceError: ``E-DEV-02`` for a device that is not there.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            "E-DEV-01", f'"{name}" is no device', found=name, expected="cpu, cuda or cuda:1", fix="--device cpu"
        ) from error
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cuda" and (device.index or 0) >= present:
        raise ResourceError(
            "E-DEV-02",
            f"there is no device {name}",
            found=f"{present} CUDA devices, torch {torch.__version__}",
            expected=f"a working CUDA device {device.index or 0}",
            fix="--device cpu, or install the CUDA build of torch",
        )
    return device
