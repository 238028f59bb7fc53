"""Ranks started by torchrun; with one process every function is a no-op.

Convention: a loss is one number for the global batch, computed alike on every rank, and each rank's backward pass
yields the part of its gradient that flows through that rank's own samples. Gradients are therefore *summed* over ranks
(never averaged), and losses that do not decompose over samples (Dice, NT-Xent) stay exact. The parts of a batch that
one process works on in turn are treated alike (``samora_pipeline.batch_parts``).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.nn import functional

from samora_pipeline import batch_parts

Samples = TypeVar("Samples", list[int], range)

PATIENCE = timedelta(hours=12)
"""how long ranks wait for one that works alone (it chooses a pool of 100,000 slices, fetches weights, scores); NCCL's
own ten minutes would end them meanwhile. A rank that dies is noticed by torchrun at once, whatever this is"""


def start(device: torch.device) -> None:
    """Join the process group that torchrun describes in the environment; nothing happens without torchrun."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1 and not dist.is_initialized():
        if device.type == "cuda":
            # Without its own device a rank of NCCL guesses one at the first barrier.
            dist.init_process_group("nccl", timeout=PATIENCE, device_id=device)
        else:
            dist.init_process_group("gloo", timeout=PATIENCE)


def stop() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


_apart = False
"""whether this process works for itself at the moment, see ``alone``"""


@contextmanager
def alone() -> Iterator[None]:
    """Within the context this process counts as the only one, for work that the other ranks do not do."""
    global _apart
    before, _apart = _apart, True
    try:
        yield
    finally:
        _apart = before


def rank() -> int:
    """This process's number, 0 without torchrun."""
    return dist.get_rank() if dist.is_initialized() and not _apart else 0


def world_size() -> int:
    """The number of processes, 1 without torchrun."""
    return dist.get_world_size() if dist.is_initialized() and not _apart else 1


def is_main() -> bool:
    """Whether this process writes files and logs."""
    return rank() == 0


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``value`` over ranks and parts; the gradient reaches this rank's and part's addend only."""
    batch = batch_parts.current()
    if batch is not None and batch.knows_own:
        return batch.total(value)
    total = value.detach()
    if world_size() > 1:
        total = total.clone()
        dist.all_reduce(total)
    if batch is not None:
        batch.note(total)
        if batch.is_complete:
            return batch.total(value)
    return value if world_size() == 1 else value + (total - value.detach())


def sum_with_all_gradients(value: torch.Tensor) -> torch.Tensor:
    """Return the sum of ``value`` over ranks for what samples of all ranks share, as the statistics of a batch norm.

    Each rank uses the sum on its own samples only, so the gradients that arrive on all ranks are summed as well. Every
    rank has to run the backward pass.
    """
    return value if world_size() == 1 else _SumBothWays.apply(value)


class _SumBothWays(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def gather_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Concatenate ``value`` (same shape on each rank) along axis 0 in rank order.

    The rows of this rank keep their gradient, the others are constants.
    """
    if world_size() == 1:
        return value
    pieces = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(pieces, value.detach().contiguous())
    pieces[rank()] = value
    return torch.cat(pieces)


def gather_rows(rows: torch.Tensor) -> torch.Tensor:
    """Concatenate rows (B,D) of all parts and ranks, of which each may hold another number B.

    The rows of this rank and part keep their gradient, the others are constants.
    """
    batch = batch_parts.current()
    if batch is not None and batch.knows_own:
        return batch.rows(rows)
    gathered, place = rows, 0
    if world_size() > 1:
        counts = gather_over_ranks(torch.tensor([len(rows)], device=rows.device)).tolist()
        longest, place = max(counts), sum(counts[: rank()])
        padded = gather_over_ranks(functional.pad(rows, (0, 0, 0, longest - len(rows))))
        gathered = torch.cat([padded[longest * number :][:count] for number, count in enumerate(counts)])
    if batch is not None:
        batch.note(gathered, place)
        if batch.is_complete:
            return batch.rows(rows)
    return gathered


def gather_statistics(own: torch.Tensor) -> torch.Tensor:
    """What describes the samples of each part and rank, (m,), as rows (k,m) without gradient; k = 1 where uncut."""
    rows = gather_over_ranks(own.detach()[None])
    batch = batch_parts.current()
    return rows if batch is None else batch.statistics(rows)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients of ``parameters`` over ranks, in one message."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if world_size() == 1 or not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    offset = 0
    for gradient in gradients:
        gradient.copy_(flat[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def own_share(indices: Samples) -> Samples:
    """The contiguous part of a global batch that this rank works on; shares differ by at most one sample."""
    size, number = world_size(), rank()
    start_index, stop_index = (len(indices) * number) // size, (len(indices) * (number + 1)) // size
    return indices[start_index:stop_index]
