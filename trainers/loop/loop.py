"""The one training loop. A stage says what is trained on what; the loop does the rest.

Ranks: every rank works on its share of each global batch, a loss is one number for that batch (see
``samora_pipeline.distributed``), gradients are summed. Accumulation: a batch larger than the micro-batch is cut into
equal parts whose losses are averaged by size. A loss that couples samples (batch-wise Dice, NT-Xent) is exact as well,
by a first pass without gradient (``samora_pipeline.batch_parts``). So the micro-batch changes no result, and is halved
where memory runs out.
"""

import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.batch_parts import Part
from samora_pipeline.contracts.run import LATEST_CHECKPOINT
from samora_pipeline.errors import DataError
from samora_pipeline.inference.precision import SINGLE, Arithmetic
from samora_pipeline.models.reduced_weights import ReducedWeights
from samora_pipeline.optimization.optimizers import set_learning_rate
from samora_pipeline.run_log import JsonLines, Line, Progress, Sink, TensorBoard, duration, logger
from trainers.loop.accumulation import Accumulation
from trainers.loop.ending import Interruption, TimeLimit, agreed_code
from trainers.loop.loading import Batch, read_batches
from trainers.loop.memory import out_of_memory, peak_memory
from trainers.loop.session import (
    PROGRESS_FILE,
    LoopState,
    ProgressPicture,
    Skipping,
    restore_state,
    save_state,
)

LOG_FILE = "log.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
_SAVE_INTERVAL = 600.0
"""seconds after which the state is saved inside an epoch too"""


def numbered(indices: list[int]) -> list[str]:
    """Names of slices that have none: their numbers."""
    return [str(index) for index in indices]


@dataclass(frozen=True)
class Training:
    """What a stage gives the loop.

    ``parameters`` are the trained ones by name, ``buffers`` tensors that change with them (running statistics).
    ``learning_rate`` maps a step's number, from 1, to its rate. ``batches`` gives an epoch's global batches of
    sample numbers, the same on every rank; ``load`` turns sample numbers into a batch (perhaps in another thread, so
    without torch's global generator); ``loss`` returns loss and metrics of the global batch from this rank's share.
    ``micro_batch``: samples on one device at a time, None for all of a batch; it changes no result. ``coupled``:
    whether the loss of a batch is more than the mean of its parts', which are then seen before they are learned from.
    ``norm_batch``: samples, over all ranks, whose statistics a batch norm takes together; a batch is then cut into such
    parts, whatever the device holds. ``recompute``, where a network can do it, makes it compute activations again in
    the backward pass instead of keeping them; ``recomputes`` where it does already.
    ``before_epoch`` is told the number of an epoch before its first step; what it does depends on nothing but
    parameters and buffers. ``after_first_step`` verifies what the first step changed. ``names`` turns sample numbers
    into slices, for whoever has to look at one.
    ``weights`` are those that products take, to be cast together on CUDA.
    ``after_step`` is told, after every step that counts, how many there were, skipped ones included, and that step's
    loss and metrics; what it changes is in ``carried``, tensors that are saved and restored with the position.
    ``monitor`` looks at what was learned after each epoch; the main rank alone calls it, as if it were the only one.
    """

    stage: str
    parameters: Mapping[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    batches: Callable[[int], list[list[int]]]
    load: Callable[[list[int], int], Batch]
    loss: Callable[[Batch, int], tuple[Tensor, dict[str, Tensor]]]
    epochs: int
    micro_batch: int | None
    coupled: bool = False
    norm_batch: int | None = None
    recompute: Callable[[], None] | None = None
    recomputes: bool = False
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    clip_norm: float | None = None
    before_epoch: Callable[[int], None] = lambda epoch: None
    after_first_step: Callable[[], None] = lambda: None
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    after_step: Callable[[int, Mapping[str, float]], None] = lambda step, values: None
    monitor: Callable[[], Mapping[str, float]] | None = None
    names: Callable[[list[int]], Sequence[str]] = numbered
    weights: ReducedWeights = field(default_factory=partial(ReducedWeights, ()))


@dataclass(frozen=True)
class LoopContext:
    """Where and how a training runs; nothing here changes its result but by rounding.

    ``folder`` gets checkpoint, log and picture. ``digest`` identifies the settings: a saved state of others is refused.
    ``resume_command`` is printed when the process is asked to stop. ``tensorboard``: also write curves for it.
    ``arithmetic`` is the precision of the products in ``before_epoch`` and ``loss``. ``following``: seconds that the
    stages after this one are predicted to take, for the end of the run that is shown. ``limit``: when this session has
    to end; an epoch that would take longer is not begun, unless it is the session's first.
    """

    folder: Path
    device: torch.device
    seed: int
    digest: str
    resume_command: str
    tensorboard: bool = False
    arithmetic: Arithmetic = SINGLE
    following: float = 0.0
    limit: TimeLimit = field(default_factory=TimeLimit)


def train(training: Training, where: LoopContext) -> list[Line]:
    """Train until ``training.epochs``, going on from the folder's saved state if there is one; return the history.

    Raises:
        DataError: ``E-RUN-19`` the saved state belongs to other settings; ``E-TRAIN-01`` the training diverged.
        ResourceError: ``E-MEM-17`` the device's memory does not suffice.
        SystemExit: 143 after SIGTERM, 138 after SIGUSR1, 130 after Ctrl-C, 75 at the end of the session's time; the
            state is saved.
    """
    if where.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where.device)
    with Interruption() as interruption:
        loop = _Loop(training, where, interruption)
        try:
            return loop.run()
        except torch.OutOfMemoryError as error:
            raise out_of_memory(training, where.device, where.resume_command) from error


class _Loop:
    def __init__(self, training: Training, where: LoopContext, interruption: Interruption) -> None:
        self.training, self.where, self.interruption = training, where, interruption
        self.path = where.folder / LATEST_CHECKPOINT
        self.state = LoopState()
        if self.path.is_file():
            self.state = restore_state(self.path, training, where.digest)
        self.sinks: list[Sink] = [JsonLines(where.folder / LOG_FILE)]
        if where.tensorboard and distributed.is_main():
            self.sinks.append(TensorBoard(where.folder / TENSORBOARD_FOLDER))
        self.picture = ProgressPicture(where.folder / PROGRESS_FILE, training.stage)
        self.skipping = Skipping(training.stage, training.buffers.values(), training.names)
        self.accumulation = Accumulation(training, where, self.skipping.restore)
        self.first = True
        self.longest = 0.0
        self.saved_at = time.monotonic()

    def run(self) -> list[Line]:
        state, main = self.state, distributed.is_main()
        if main:
            self.where.folder.mkdir(parents=True, exist_ok=True)
            for sink in self.sinks:
                sink.start(state.history)
        if state.epoch < self.training.epochs:
            per_epoch = len(self._batches(state.epoch))
            steps, following = per_epoch * self.training.epochs, self.where.following
            with Progress(self.training.stage, steps, state.step, quiet=not main, following=following) as progress:
                while state.epoch < self.training.epochs:
                    begun = time.monotonic()
                    self._leave_if_asked(self.longest)
                    self._epoch(progress)
                    self.longest = max(self.longest, time.monotonic() - begun, state.history[-1]["seconds"])
        if main:
            self.picture.update(state.history, last=True)
        self._leave_if_asked(-math.inf)
        return state.history

    def _epoch(self, progress: Progress) -> None:
        training, state = self.training, self.state
        if state.step_in_epoch == 0:
            with self.where.arithmetic.autocast(self.where.device):
                training.before_epoch(state.epoch)
        batches = self._batches(state.epoch)
        while state.step_in_epoch < len(batches):
            self._steps(batches[state.step_in_epoch :], progress)
        self._finish_epoch()

    def _steps(self, batches: list[list[int]], progress: Progress) -> None:
        """Take steps until there are none left, or until one has to be repeated in smaller parts."""
        training, state = self.training, self.state
        steps = [self.accumulation.parts(batch, number) for number, batch in enumerate(batches, start=state.step)]
        pairs = [(batch, part) for batch, parts in zip(batches, steps, strict=True) for part in parts]
        shares = [[batch[row] for row in part.rows] for batch, part in pairs]
        with closing(read_batches(training.load, shares, state.epoch, self.where.device)) as reader:
            loaded = self._waiting(reader)
            for batch, parts in zip(batches, steps, strict=True):
                begun = time.monotonic()
                loss = self._step(parts, loaded, batch)
                state.seconds += time.monotonic() - begun
                if loss is None:
                    return
                state.step += 1
                state.step_in_epoch += 1
                state.slices += len(batch)
                progress.advance(f"epoch {state.epoch + 1}/{training.epochs}, loss {loss:.4f}")
                self._leave_if_asked()
                if time.monotonic() - self.saved_at > _SAVE_INTERVAL:
                    self._save()

    def _batches(self, epoch: int) -> list[list[int]]:
        # A tail with fewer samples than ranks would leave a rank without work, and with it the collectives.
        batches = [batch for batch in self.training.batches(epoch) if len(batch) >= distributed.world_size()]
        if not batches:
            raise DataError(
                "E-TRAIN-02",
                training=self.training,
                world_size=distributed.world_size(),
                found=f"{sum(len(batch) for batch in self.training.batches(epoch))} slices",
            )
        return batches

    def _step(self, parts: list[Part], loaded: Iterator[Batch], batch: list[int]) -> float | None:
        """Learn from a batch and return its loss; None where memory ran out and the parts will be smaller."""
        state, values = self.state, None
        self.skipping.before_step()
        try:
            values = self.accumulation.gradients(parts, loaded, state.epoch)
        except torch.OutOfMemoryError:
            # Ranks that still have memory wait in the middle of a sum: nothing could be repeated.
            if distributed.world_size() > 1 or not self.accumulation.shrink(parts):
                raise
        if values is None:
            self.accumulation.let_go()
            return None
        if self._on_any_rank(not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"]))):
            self.skipping.skip(state, batch, values["loss"], values["gradient_norm"])
        else:
            self._update(values)
        return values["loss"]

    def _waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches, with the time that the loop waits for them."""
        while True:
            begun = time.monotonic()
            batch = next(batches, None)
            self.state.waited += time.monotonic() - begun
            if batch is None:
                return
            yield batch

    def _update(self, values: dict[str, float]) -> None:
        training, state = self.training, self.state
        set_learning_rate(training.optimizer, training.learning_rate(state.step + 1))
        training.optimizer.step()
        training.after_step(state.step + 1, values)
        self.skipping.after_finite_step()
        state.counted += 1
        for name, value in values.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        if self.first:
            self.first = False
            training.after_first_step()

    def _finish_epoch(self) -> None:
        state, training = self.state, self.training
        counted = max(1, state.counted)
        begun = time.monotonic()
        watched: Mapping[str, float] = {}
        if training.monitor is not None and distributed.is_main():
            with distributed.alone(), torch.no_grad():
                watched = training.monitor()
        watching = time.monotonic() - begun
        line: Line = {
            "stage": training.stage,
            "epoch": state.epoch + 1,
            **{name: total / counted for name, total in state.sums.items()},
            "lr": training.learning_rate(state.step),
            "seconds": round(state.seconds, 3),
            "slices_per_second": round(state.slices / max(state.seconds, 1e-9), 2),
            "data_wait": round(state.waited / max(state.seconds, 1e-9), 4),
            "memory_gib": round(peak_memory(self.where.device) / 2**30, 3),
            **self.accumulation.record(self._batches(state.epoch)[0]),
            "skipped_steps": state.skipped,
            **({"skipped_slices": " ".join(state.skipped_slices)} if state.skipped_slices else {}),
            **watched,
            **({"monitor_seconds": round(watching, 3)} if watched else {}),
        }
        state.history.append(line)
        state.epoch += 1
        state.step_in_epoch = state.counted = state.slices = 0
        state.seconds = state.waited = 0.0
        state.sums, state.skipped_slices = {}, []
        self._save()
        if distributed.is_main():
            for sink in self.sinks:
                sink.write(line)
            self.picture.update(state.history)

    def _save(self) -> None:
        if distributed.is_main():
            save_state(self.path, self.state, self.training, self.where.digest)
        self.saved_at = time.monotonic()

    def _leave_if_asked(self, needed: float = 0.0) -> None:
        """End the session after a signal, or where fewer than ``needed`` seconds are left."""
        where = self.where
        code = agreed_code(self.interruption.received, over=not where.limit.has(needed), device=where.device)
        if not code:
            return
        self._save()
        if distributed.is_main():
            place = f"step {self.state.step}, epoch {self.state.epoch} of {self.training.stage}"
            why = f"; the next epoch ({duration(needed)}) does not fit" if needed > 0 else ""
            logger.info("stopped after %s%s; resume with:\n  %s", place, why, where.resume_command)
        sys.exit(code)

    def _on_any_rank(self, flag: bool) -> bool:
        if distributed.world_size() == 1:
            return flag
        return distributed.sum_over_ranks(torch.tensor([float(flag)], device=self.where.device)).item() > 0
