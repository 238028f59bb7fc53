"""How much memory a step takes, measured, and how a stage is made to fit; nothing here changes a result.

All figures are bytes on the device of the training: the allocator's on CUDA, storages of tensors elsewhere.
"""

from __future__ import annotations

import sys
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from samora_pipeline import distributed
from samora_pipeline.errors import ResourceError
from samora_pipeline.inference.precision import SINGLE, Arithmetic
from samora_pipeline.resources import memory
from trainers.loop.loading import on_device

if TYPE_CHECKING:
    from trainers.loop.loop import Training

FEWEST = 4
"""slices at a time below which activations are computed again before fewer are taken (ours)"""
_SHARE = 0.8
"""of the free memory that a step may take (ours); what fragments, and workspaces of kernels, are beside it"""
_TRIED = {"cuda": ((8, 16), (2, 4), (1, 2)), "cpu": ((1, 2),)}
"""slices of the two steps that are measured, the first pair that fits; a line through them gives any other number"""


class Need(NamedTuple):
    """What a step on n slices holds at its peak, beside what is held already: ``fixed`` + n x ``per_slice``."""

    fixed: int
    per_slice: int

    def at(self, slices: int) -> int:
        """Of a step on so many slices."""
        return self.fixed + slices * self.per_slice

    def slices(self, room: int) -> int:
        """How many slices a step can have at most."""
        return (room - self.fixed) // max(1, self.per_slice)


class Fit(NamedTuple):
    """How a stage was made to fit: ``micro_batch`` of ``largest`` slices at a time, whether it ``recomputes``.

    ``need`` is predicted for it, ``room`` what it may take of the free memory.
    """

    micro_batch: int
    largest: int
    recomputes: bool
    need: int
    room: int

    def __str__(self) -> str:
        cut = f"{self.micro_batch} of {self.largest}" if self.micro_batch < self.largest else f"{self.largest}"
        again = ", activations computed again" if self.recomputes else ""
        return f"{cut} slices at a time{again} ({self.need / 2**30:.2f} of {self.room / 2**30:.1f} GiB)"


def fit(training: Training, device: torch.device, arithmetic: Arithmetic = SINGLE) -> tuple[Training, Fit]:
    """Choose micro-batch and recomputation by measuring two steps; parameters and buffers stay as they are.

    All slices that the stage takes at a time, if they fit; else the largest power of two that does. Fewer than four,
    or a part that a batch norm does not allow to be cut, are avoided by recomputation. What does not fit even so is
    tried all the same: prediction is no proof.

    Args:
        training: on its device, before its first step.
        device: where it is.
        arithmetic: of its products.

    Returns:
        The training with the choice, and the choice.
    """
    batch = training.batches(0)[0]
    ranks = distributed.world_size()
    largest = max(
        1, len(batch) // ranks if training.norm_batch is None else min(len(batch), training.norm_batch) // ranks
    )
    wanted = min(training.micro_batch or largest, largest)
    training.weights.prepare(device, arithmetic.dtype)
    room = _smallest(int(_SHARE * available(device)), device)
    need = measured(training, batch, device, arithmetic)
    micro_batch = _fitting(need, room, wanted)
    enough = wanted if training.norm_batch is not None else min(wanted, FEWEST)
    if micro_batch < enough and training.recompute is not None:
        training.recompute()
        training = replace(training, recompute=None, recomputes=True)
        need = measured(training, batch, device, arithmetic)
        micro_batch = _fitting(need, room, wanted)
    if training.norm_batch is not None:
        micro_batch = wanted
    chosen = Fit(micro_batch, wanted, training.recomputes, need.at(micro_batch) if need else 0, room)
    return replace(training, micro_batch=None if micro_batch == largest else micro_batch), chosen


def _fitting(need: Need | None, room: int, wanted: int) -> int:
    """The slices at a time, ``wanted`` at most; one where not even the steps that were tried have fitted."""
    fitting = need.slices(room) if need is not None else 1
    return wanted if fitting >= wanted else 1 << (max(1, fitting).bit_length() - 1)


def measured(
    training: Training, batch: list[int], device: torch.device, arithmetic: Arithmetic = SINGLE
) -> Need | None:
    """The need of a step, from two steps on few slices; None where memory ran out.

    Every rank measures, and all go by the largest need.
    """
    own, most = distributed.own_share(batch), len(batch) // distributed.world_size()
    weights = sum(parameter.nbytes for parameter in training.parameters.values())
    moments = 2 if "betas" in training.optimizer.defaults else 1
    for tried in _TRIED.get(device.type, _TRIED["cpu"]):
        few, many = (min(number, most) for number in tried)
        try:
            low, high = (peak_of_step(training, own[:number], device, arithmetic) for number in (few, many))
        except torch.OutOfMemoryError:
            continue
        per_slice = (high - low) // (many - few) if many > few else high // many
        largest = -_smallest(-per_slice, device)
        return Need(-_smallest(-max(0, high - many * per_slice), device) + moments * weights, largest)
    return None


def peak_of_step(training: Training, indices: list[int], device: torch.device, arithmetic: Arithmetic = SINGLE) -> int:
    """What loss and gradients of these samples hold at most, beside what is held before; nothing is learned.

    The gradients are there before, as in every part but the first of a step: else few slices would be less than they.
    """
    kept = [buffer.clone() for buffer in training.buffers.values()]
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        with torch.random.fork_rng([]), HeldBytes(device) as held:
            for parameter in training.parameters.values():
                parameter.grad = torch.zeros_like(parameter)
            with training.weights.used(device, arithmetic.dtype):
                loss, _ = loss_of(training, indices, device, arithmetic)
                loss.backward()  # type: ignore[no-untyped-call]
            del loss
        return torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else held.peak
    finally:
        training.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, value in zip(training.buffers.values(), kept, strict=True):
                buffer.copy_(value)


def loss_of(
    training: Training, indices: list[int], device: torch.device, arithmetic: Arithmetic
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and metrics of these samples in the last epoch, when all that a stage ever does takes part."""
    epoch = training.epochs - 1
    batch = on_device(training.load(indices, epoch), device)
    with arithmetic.autocast(device):
        return training.loss(batch, epoch)


class HeldBytes(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch has no types there
    """Context that counts the bytes of the tensors that operations make within it, and what of them is held at most.

    On CUDA it does nothing: the allocator counts.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts = device.type != "cuda"
        self._held: dict[int, int] = {}
        self.bytes = self.peak = 0

    def __enter__(self) -> HeldBytes:
        if self._counts:
            super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *problem: Any) -> None:
        if self._counts:
            super().__exit__(*problem)  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and count what it makes."""
        given = {_place(value) for value in tree_leaves((args, kwargs or {})) if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and _place(made) not in given and _place(made) not in self._held:
                self._add(made.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        self._held[storage._cdata] = storage.nbytes()
        self.bytes += storage.nbytes()
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._free, storage._cdata)

    def _free(self, place: int) -> None:
        self.bytes -= self._held.pop(place, 0)


def _place(tensor: Tensor) -> int:
    place: int = tensor.untyped_storage()._cdata
    return place


def available(device: torch.device) -> int:
    """Bytes that this process can still take on the device; on a CPU the ranks of a machine share what is free."""
    if device.type != "cuda":
        return memory().value // distributed.world_size()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def _smallest(value: int, device: torch.device) -> int:
    """The smallest over all ranks."""
    if distributed.world_size() == 1:
        return value
    return int(distributed.gather_over_ranks(torch.tensor([float(value)], dtype=torch.float64, device=device)).min())


def peak_memory(device: torch.device) -> int:
    """The most bytes held so far: the device's allocator on CUDA, the process's resident set elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def out_of_memory(training: Training, device: torch.device, command: str) -> ResourceError:
    """The error (``E-MEM-17``) of a stage in which nothing can shrink any more; ``command`` starts it again."""
    expected = "room for one slice"
    change = "--device cpu"
    if training.norm_batch is not None and training.norm_batch > 1:
        half = training.norm_batch // 2
        change = f"--set {training.stage}.norm_batch={half} --name norm{half}"
        expected = f"room for {training.norm_batch} slices, whose statistics a batch norm takes together"
    elif distributed.world_size() > 1:
        change = f"--set {training.stage}.micro_batch={max(1, (training.micro_batch or FEWEST) // 2)}"
        expected = "room for one micro-batch"
    held = f"{peak_memory(device) / 2**30:.1f} GiB held at the peak"
    return ResourceError(
        "E-MEM-17", training=training, command=f"{command} {change}".strip(), found=held, expected=expected
    )
