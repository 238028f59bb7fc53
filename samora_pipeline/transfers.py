"""Copies to a device that the host does not wait for."""

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device; from the host to CUDA by way of pinned memory, so that nobody waits for the copy.

    CUDA copies memory that is not pinned only once everything before it is done. Pinned memory is kept by torch for
    the next copy, and is not given away before the copy has read it.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
