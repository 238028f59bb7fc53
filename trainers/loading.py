"""From sample numbers to tensors ahead of the loop, in loader processes or in line."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainers.interruption import ignore_signals

Batch = dict[str, Tensor]

_MOST_WORKERS = 8


class _Shares(Dataset[Batch]):
    """One item per micro-batch: what a loader process fetches is a whole part, in order."""

    def __init__(self, load: Callable[[list[int], int], Batch], shares: list[list[int]], epoch: int) -> None:
        self._load, self._shares, self._epoch = load, shares, epoch

    def __len__(self) -> int:
        return len(self._shares)

    def __getitem__(self, number: int) -> Batch:
        return self._load(self._shares[number], self._epoch)


def load_parts(
    load: Callable[[list[int], int], Batch], shares: list[list[int]], epoch: int, workers: int, device: torch.device
) -> Iterator[Batch]:
    """Yield ``load(share, epoch)`` for each share, in order, prepared ahead by ``workers`` processes (0: none)."""
    loader: DataLoader[Batch] = DataLoader(
        _Shares(load, shares, epoch),
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=_start_worker if workers else None,
    )
    return iter(loader)


def default_workers(device: torch.device, ranks: int) -> int:
    """Loader processes for this machine: none beside a training that uses the same cores, else up to eight a rank."""
    if device.type != "cuda":
        return 0
    return min(_MOST_WORKERS, max(1, len(os.sched_getaffinity(0)) // ranks - 1))


def _start_worker(_number: int) -> None:
    ignore_signals()
    torch.set_num_threads(1)
