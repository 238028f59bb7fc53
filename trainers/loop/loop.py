"""The one training loop. A stage says what is trained on what; the loop does the rest.

Ranks: every rank works on its share of each global batch, a loss is one number for that batch (see
``samora_pipeline.distributed``), gradients are summed. Accumulation: a batch larger than the micro-batch is cut into
equal parts whose losses are averaged by size; a loss that couples samples (batch-wise Dice) is then one per part, not
one per batch, and a stage whose loss must not be cut (NT-Xent) sets ``micro_batch=None``.
"""

import math
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.contracts.run import LATEST_CHECKPOINT
from samora_pipeline.errors import DataError, ResourceError
from samora_pipeline.inference.precision import SINGLE, Arithmetic
from samora_pipeline.optimization.optimizers import set_learning_rate
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.run_log import JsonLines, Line, Progress, Sink, TensorBoard, duration, logger
from trainers.loop.loading import Batch, on_device, read_batches
from trainers.loop.session import (
    PROGRESS_FILE,
    Interruption,
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
    ``micro_batch``: samples on one device at a time. ``before_epoch`` is told the number of an epoch before its first
    step; what it does depends on nothing but parameters and buffers. ``after_first_step`` verifies what the
    first step changed. ``names`` turns sample numbers into slices, for whoever has to look at one.
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
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    clip_norm: float | None = None
    before_epoch: Callable[[int], None] = lambda epoch: None
    after_first_step: Callable[[], None] = lambda: None
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    after_step: Callable[[int, Mapping[str, float]], None] = lambda step, values: None
    monitor: Callable[[], Mapping[str, float]] | None = None
    names: Callable[[list[int]], Sequence[str]] = numbered


@dataclass(frozen=True)
class LoopContext:
    """Where and how a training runs; nothing here changes its result but by rounding.

    ``folder`` gets checkpoint, log and picture. ``digest`` identifies the settings: a saved state of others is refused.
    ``resume_command`` is printed when the process is asked to stop. ``tensorboard``: also write curves for it.
    ``arithmetic`` is the precision of the products in ``before_epoch`` and ``loss``.
    """

    folder: Path
    device: torch.device
    seed: int
    digest: str
    resume_command: str
    tensorboard: bool = False
    arithmetic: Arithmetic = SINGLE


def train(training: Training, where: LoopContext) -> list[Line]:
    """Train until ``training.epochs``, going on from the folder's saved state if there is one; return the history.

    Raises:
        DataError: ``E-RUN-19`` the saved state belongs to other settings; ``E-TRAIN-01`` the training diverged.
        ResourceError: ``E-MEM-17`` the device's memory does not suffice.
        SystemExit: 143 after SIGTERM, 130 after Ctrl-C; the state is saved.
    """
    if where.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where.device)
    with Interruption() as interruption:
        loop = _Loop(training, where, interruption)
        try:
            return loop.run()
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(training, where) from error


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
        self.first = True
        self.saved_at = time.monotonic()

    def run(self) -> list[Line]:
        state, main = self.state, distributed.is_main()
        if main:
            self.where.folder.mkdir(parents=True, exist_ok=True)
            for sink in self.sinks:
                sink.start(state.history)
        if state.epoch < self.training.epochs:
            per_epoch = len(self._batches(state.epoch))
            with Progress(
                self.training.stage, per_epoch * self.training.epochs, state.step, quiet=not main
            ) as progress:
                while state.epoch < self.training.epochs:
                    self._epoch(progress)
        if main:
            self.picture.update(state.history, last=True)
        self._leave_if_asked()
        return state.history

    def _epoch(self, progress: Progress) -> None:
        training, state = self.training, self.state
        if state.step_in_epoch == 0:
            with self.where.arithmetic.autocast(self.where.device):
                training.before_epoch(state.epoch)
        batches = self._batches(state.epoch)
        steps = [self._parts(batch) for batch in batches[state.step_in_epoch :]]
        shares = [share for parts in steps for share, _ in parts]
        loaded = read_batches(training.load, shares, state.epoch, self.where.device)
        for batch, parts in zip(batches[state.step_in_epoch :], steps, strict=True):
            begun = time.monotonic()
            loss = self._step([weight for _, weight in parts], loaded, batch)
            state.step += 1
            state.step_in_epoch += 1
            state.slices += len(batch)
            state.seconds += time.monotonic() - begun
            progress.advance(f"epoch {state.epoch + 1}/{training.epochs}, loss {loss:.4f}")
            self._leave_if_asked()
            if time.monotonic() - self.saved_at > _SAVE_INTERVAL:
                self._save()
        self._finish_epoch()

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

    def _parts(self, batch: list[int]) -> list[tuple[list[int], float]]:
        """Cut a global batch into accumulation steps: (this rank's samples, weight of the part)."""
        micro = self.training.micro_batch
        size = distributed.world_size()
        count = 1 if micro is None else min(math.ceil(len(batch) / (micro * size)), len(batch) // size)
        bounds = [len(batch) * number // count for number in range(count + 1)]
        pieces = [batch[low:high] for low, high in pairwise(bounds)]
        return [(distributed.own_share(piece), len(piece) / len(batch)) for piece in pieces]

    def _step(self, weights: list[float], loaded: Iterator[Batch], batch: list[int]) -> float:
        training, state = self.training, self.state
        # Only torch's generator: what is drawn while loading is seeded by sample, wherever it is loaded.
        torch.manual_seed(derived_seed(self.where.seed, training.stage, state.step))
        training.optimizer.zero_grad(set_to_none=True)
        self.skipping.before_step()
        totals: dict[str, Tensor] = {}
        for weight in weights:
            waiting = time.monotonic()
            tensors = on_device(next(loaded), self.where.device)
            state.waited += time.monotonic() - waiting
            with self.where.arithmetic.autocast(self.where.device):
                loss, metrics = training.loss(tensors, state.epoch)
            (loss * weight).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": loss, **metrics}.items():
                totals[name] = totals.get(name, 0.0) + value.detach().float() * weight
        totals["gradient_norm"] = self._gradient_norm()
        values = dict(zip(totals, torch.stack(list(totals.values())).tolist(), strict=True))
        if self._on_any_rank(not (math.isfinite(values["loss"]) and math.isfinite(values["gradient_norm"]))):
            self.skipping.skip(state, batch, values["loss"], values["gradient_norm"])
        else:
            self._update(values)
        return float(values["loss"])

    def _gradient_norm(self) -> Tensor:
        parameters = [parameter for parameter in self.training.parameters.values() if parameter.grad is not None]
        distributed.sum_gradients(parameters)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.training.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, self.training.clip_norm, norm)
        return norm

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

    def _leave_if_asked(self) -> None:
        received = self.interruption.received
        # The signal reaches the ranks at different steps; all must leave at the same one.
        if not self._on_any_rank(received != 0):
            return
        self._save()
        if distributed.is_main():
            where = f"step {self.state.step} of {self.training.stage} ({duration(self.state.seconds)})"
            logger.info("stopped after %s; go on with:\n  %s", where, self.where.resume_command)
        sys.exit(128 + (received or signal.SIGTERM))

    def _on_any_rank(self, flag: bool) -> bool:
        if distributed.world_size() == 1:
            return flag
        return distributed.sum_over_ranks(torch.tensor([float(flag)], device=self.where.device)).item() > 0


def peak_memory(device: torch.device) -> int:
    """The most bytes held so far: the device's allocator on CUDA, the process's resident set elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _out_of_memory(training: Training, where: LoopContext) -> ResourceError:
    micro = training.micro_batch
    name, value = ("micro_batch", max(1, micro // 2)) if micro else ("batch", "...")
    return ResourceError(
        "E-MEM-17",
        training=training,
        name=name,
        value=value,
        found=f"{peak_memory(where.device) / 2**30:.1f} GiB held at the peak",
        expected="room for one micro-batch" if micro else "room for the whole batch, which this loss cannot cut",
    )
