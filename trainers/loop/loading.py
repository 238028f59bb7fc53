"""From sample numbers to batches, read ahead of the loop by one thread.

One thread and no processes: slices are decoded once and then come from memory, augmentation runs on the device, and
nothing can die in a shared-memory segment. On a CPU the training has the cores, and batches are read in line.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from samora_pipeline.transfers import to_device

Batch = dict[str, Any]
"""Tensors by name, and drawn parameters that stay on the CPU."""

Share = TypeVar("Share")
Prepared = TypeVar("Prepared")

_DEPTH = 2
"""batches that wait for the device, at most"""


def read_batches(
    load: Callable[[list[int], int], Batch], shares: list[list[int]], epoch: int, device: torch.device
) -> Generator[Batch, None, None]:
    """Yield ``load(share, epoch)`` for each share, in order; on CUDA they are prepared while the device works."""
    if device.type != "cuda":
        for share in shares:
            yield load(share, epoch)
        return
    yield from read_ahead(shares, lambda share: _pinned(load(share, epoch)))


def read_ahead(shares: Iterable[Share], prepare: Callable[[Share], Prepared]) -> Generator[Prepared, None, None]:
    """Yield ``prepare(share)`` for each share, in order, prepared by one thread at most two shares ahead."""
    pool = ThreadPoolExecutor(1, "slices")
    waiting: deque[Future[Prepared]] = deque()
    try:
        for share in shares:
            waiting.append(pool.submit(prepare, share))
            if len(waiting) > _DEPTH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def on_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on the device; everything else as it is."""
    return {name: to_device(value, device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def _pinned(batch: Batch) -> Batch:
    """The batch in memory that is copied without waiting, drawn parameters included."""
    pinned: Batch = tree_map_only(Tensor, Tensor.pin_memory, batch)
    return pinned
