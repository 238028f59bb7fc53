"""What the importers of teachers share: every tensor finds its place, or nothing is written and a misfit is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from samora_pipeline.errors import DataError

COUNTERS = "num_batches_tracked"
"""last part of the name of what batch norms count; no part of what was learned, and not in every file"""


@dataclass(frozen=True)
class TeacherReport:
    """What became of the tensors: ``loaded`` and ``kept`` (at their random start) are names of the network.

    ``dropped`` are names of the file that have no place in the network.
    """

    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        counts = {"loaded": self.loaded, "left at their random start": self.kept, "of no use": self.dropped}
        return ", ".join(f"{len(names)} {what}" for what, names in counts.items() if names)


def fill(
    network: nn.Module, tensors: Mapping[str, Tensor], *, may_lack: Callable[[str], bool], dropped: Iterable[str]
) -> TeacherReport:
    """Copy tensors into a network under its own names.

    Args:
        network: whose state is filled.
        tensors: by the network's names.
        may_lack: whether a file without this tensor is accepted.
        dropped: names in the file that were set aside before.

    Raises:
        DataError: ``E-WEIGHT-06`` when a tensor is missing, left over or of another shape; nothing is written then.
    """
    own = network.state_dict()
    missing = [name for name in own if name not in tensors and not name.endswith(COUNTERS) and not may_lack(name)]
    if missing:
        raise misfit(f"{len(missing)} tensors are missing, first {missing[0]}", f"{len(own)} tensors")
    left_over = [name for name in tensors if name not in own]
    if left_over:
        raise misfit(f"{len(left_over)} tensors too many, first {left_over[0]}", f"{len(own)} tensors")
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise misfit(f"{name} {tuple(tensor.shape)}", f"{name} {tuple(own[name].shape)}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
    kept = tuple(name for name in own if name not in tensors and not name.endswith(COUNTERS))
    return TeacherReport(tuple(tensors), kept, tuple(dropped))


def misfit(found: str, expected: str) -> DataError:
    """The error of weights that belong to another network."""
    return DataError(
        "E-WEIGHT-06",
        what="these weights do not fit the teacher",
        found=found,
        expected=expected,
        fix="choose the file that belongs to the teacher; samora_weights list  names them",
    )
