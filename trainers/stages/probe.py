"""What a stage takes on this machine: a few steps on some of its own slices, with random weights, timed."""

import time
from typing import Any, NamedTuple, Self

import torch

from samora_pipeline.contracts.run import RunConfig
from trainers.loop.loop import Training
from trainers.loop.memory import Fit, fit, loss_of, out_of_memory
from trainers.stages.stage import RunContext, Stage, on_its_device

_SLICES, _REPEATS = 32, 3
"""a whole batch of a small network, as a step costs more than its slices; the fastest, as these are read once"""
_LARGE_SLICES = 2
"""of a network too large to be tried on more; two, because a contrastive loss compares them"""
_LARGE = 80_000_000
"""bytes"""
_SAVED = 4
"""times the trained weights are on the disk: in the result, in the state to go on from, and twice in its optimizer"""
_FIRST_PASS = 4 / 3
"""of a step of three passes, one forward and two backward, where a loss sees a batch before it is learned from"""


class StageCost(NamedTuple):
    """Of one stage.

    Seconds per slice, slices of all its steps, bytes held before the first, how it is made to fit, and bytes of disk.
    """

    seconds_per_slice: float
    slices: int
    held: int
    fit: Fit
    disk: int

    @property
    def seconds(self) -> float:
        """Of the whole stage."""
        return self.slices * self.seconds_per_slice

    @property
    def bytes(self) -> int:
        """Held at the peak."""
        return self.held + self.fit.need

    def at(self, epochs: int, other: int) -> Self:
        """The cost of another number of epochs."""
        return self._replace(slices=self.slices // epochs * other)


def probe(stage: Stage[Any], run: RunConfig, context: RunContext, slices: int, resident: int) -> StageCost:
    """Measure the memory of steps of the stage and time one, after those of the measurement have warmed it up.

    Args:
        stage: not trained yet; nothing of it is written.
        run: the configuration, with all stages.
        context: a draft, so that no weights are read.
        slices: how many the stage learns from.
        resident: bytes that the process holds without any stage, which count where networks share its memory (CPU).

    Raises:
        DataError: ``E-POOL-..``, ``E-STORE-..`` what the stage learns from is not there. ResourceError: ``E-MEM-17``
            not even one slice fits.
    """
    trainable = stage.build(run, context)
    training, fitted = fit(on_its_device(trainable, context.device), context.device, context.arithmetic)
    length = stage.settings.length(slices)
    weights = sum(parameter.nbytes for parameter in trainable.network.parameters())
    most, repeats = (_LARGE_SLICES, 1) if weights > _LARGE else (_SLICES, _REPEATS)
    chosen = training.batches(0)[0][: min(most, fitted.micro_batch)]
    try:
        seconds = min(_step(training, chosen, context) for _ in range(repeats))
    except torch.OutOfMemoryError as error:
        raise out_of_memory(training, context.device, context.resume_command) from error
    is_seen_before = training.coupled and fitted.micro_batch < fitted.largest
    return StageCost(
        seconds_per_slice=seconds / len(chosen) * (_FIRST_PASS if is_seen_before else 1),
        slices=length.epochs * length.steps * length.batch,
        held=torch.cuda.memory_allocated(context.device) if context.device.type == "cuda" else resident + weights,
        fit=fitted,
        disk=_SAVED * sum(parameter.nbytes for parameter in training.parameters.values()),
    )


def _step(training: Training, indices: list[int], context: RunContext) -> float:
    """Take a step without an update; its seconds."""
    begun = time.perf_counter()
    training.optimizer.zero_grad(set_to_none=True)
    loss, _ = loss_of(training, indices, context.device, context.arithmetic)
    loss.backward()  # type: ignore[no-untyped-call]
    if context.device.type == "cuda":
        torch.cuda.synchronize(context.device)
    return time.perf_counter() - begun
