"""Data and costs of one step at full size. Nothing here belongs to the project."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch

from tests.pretend_cuda.device import PretendCuda

OURS = ("samora_pipeline", "trainers", "planners", "dataset_conversion", "benchmarks")
DEVICE_GIB = 80.0


def pretended(**options: Any) -> PretendCuda:
    """The device, which then names the project's lines."""
    return PretendCuda(ours=OURS, **options)


@dataclass
class Cost:
    """What one step costs, from the end of the first step's update to the end of the second's.

    ``launches`` are by line, ``operations`` the same by name, ``waits`` by line and reason.
    """

    peak_gib: float = 0.0
    tflop: float = 0.0
    moved_gb: float = 0.0
    launches: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)


class CostOfSecondStep:
    """A hook behind each update of an optimizer: the first has made its state, the second is counted."""

    def __init__(self, device: PretendCuda) -> None:
        self.device, self.cost, self.updates = device, Cost(), 0

    def __call__(self, *_: Any) -> None:
        ledger = self.device.ledger
        self.updates += 1
        if self.updates == 1:
            ledger.clear()
            self.device.reset_peak()
            return
        self.cost = Cost(
            self.device.peak / 2**30,
            sum(entry[1] for entry in ledger.costs.values()) / 1e12,
            sum(entry[2] for entry in ledger.costs.values()) / 1e9,
            +ledger.launches,
            +ledger.operations,
            +ledger.waits,
        )


class Slices:
    """2,048 empty slices of one channel and ``size`` pixels a side."""

    channels = 1

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return 2048

    def keys(self, indices: Any) -> list[str]:
        return [f"dataset/case/{index}" for index in indices]

    def images(self, indices: Any) -> torch.Tensor:
        return torch.zeros(len(indices), 1, self.size, self.size)

    def targets(self, indices: Any) -> torch.Tensor:
        return torch.zeros(len(indices), self.size, self.size, dtype=torch.int64)


class DrawnSlices(Slices):
    """Slices with something to learn: a bright square in noise, each pixel of which is of one of eight classes."""

    def images(self, indices: Any) -> torch.Tensor:
        return torch.stack([self._one(index)[0] for index in indices])

    def targets(self, indices: Any) -> torch.Tensor:
        return torch.stack([self._one(index)[1] for index in indices])

    def _one(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(int(index))
        image = 0.3 * torch.rand(1, self.size, self.size, generator=generator)
        target = torch.zeros(self.size, self.size, dtype=torch.int64)
        row, column = (torch.rand(2, generator=generator) * self.size / 2).long().tolist()
        label = 1 + int(index) % 8
        inside = slice(row, row + self.size // 2), slice(column, column + self.size // 2)
        target[inside] = label
        image[0][inside] += 0.05 * label
        return image, target
