"""What a stage takes on this machine: one step on a few of its own slices, with random weights, timed."""

import time
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from samora_pipeline.contracts.run import RunConfig
from trainers.loop.loading import on_device
from trainers.loop.loop import Training
from trainers.stages.stage import RunContext, Stage, Trainable, on_its_device

_SLICES = 4
_LARGE_SLICES = 2
"""of a network too large to be tried on more; two, because a contrastive loss compares them"""
_LARGE_PARAMETERS = 20_000_000


class StageCost(NamedTuple):
    """Of one stage: seconds and kept bytes per slice, bytes of weights, gradients and moments, and its steps."""

    seconds_per_slice: float
    bytes_per_slice: int
    fixed_bytes: int
    slices: int
    largest_part: int

    @property
    def seconds(self) -> float:
        """Of the whole stage."""
        return self.slices * self.seconds_per_slice

    def at(self, epochs: int, other: int) -> Self:
        """The cost of another number of epochs."""
        return self._replace(slices=self.slices // epochs * other)

    @property
    def bytes(self) -> int:
        """Held at the peak."""
        return self.fixed_bytes + self.largest_part * self.bytes_per_slice


def probe(stage: Stage[Any], run: RunConfig, context: RunContext, slices: int) -> StageCost:
    """Time a step of the stage and count what it keeps; a small network is warmed up by a step before.

    Args:
        stage: not trained yet; nothing of it is written.
        run: the configuration, with all stages.
        context: a draft, so that no weights are read.
        slices: how many the stage learns from.

    Raises:
        DataError: ``E-POOL-..``, ``E-STORE-..`` what the stage learns from is not there.
    """
    trainable = stage.build(run, context)
    training = on_its_device(trainable, context.device)
    length = stage.settings.length(slices)
    parameters = sum(parameter.numel() for parameter in trainable.network.parameters())
    is_large = parameters > _LARGE_PARAMETERS
    chosen = training.batches(0)[0][: _LARGE_SLICES if is_large else _SLICES]
    if not is_large:
        _step(training, chosen, context)
    begun = time.perf_counter()
    kept = _kept_bytes(trainable, training, chosen, context)
    seconds = time.perf_counter() - begun
    fixed = sum(tensor.nbytes * (4 if tensor.requires_grad else 1) for tensor in trainable.network.parameters())
    return StageCost(
        seconds_per_slice=seconds / len(chosen),
        bytes_per_slice=kept // len(chosen),
        fixed_bytes=fixed,
        slices=length.epochs * length.steps * length.batch,
        largest_part=min(training.micro_batch or length.batch, length.batch),
    )


def _kept_bytes(trainable: Trainable, training: Training, indices: list[int], context: RunContext) -> int:
    """Bytes of distinct tensors that a step keeps for its backward pass, weights left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in trainable.network.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _step(training, indices, context)
    return sum(size for place, size in kept.items() if place not in weights)


def _step(training: Training, indices: list[int], context: RunContext) -> None:
    batch = on_device(training.load(indices, 0), context.device)
    training.optimizer.zero_grad(set_to_none=True)
    with context.arithmetic.autocast(context.device):
        loss, _ = training.loss(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    if context.device.type == "cuda":
        torch.cuda.synchronize(context.device)
