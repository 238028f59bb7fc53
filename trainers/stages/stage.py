"""What a stage is, and the only copy of how one is run: reuse, build, freeze, train, check, save, record."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.run import BASE_FILE, KEY_LENGTH, LATEST_CHECKPOINT, RunConfig, StageRecord
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.contracts.timing import StageTiming
from samora_pipeline.errors import AssetError
from samora_pipeline.files import digest_json, in_turn, sweep, write_text
from samora_pipeline.inference.device import room_for
from samora_pipeline.inference.precision import SINGLE, Arithmetic
from samora_pipeline.models.freezing import Part, freeze, snapshot, verify
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.reproducibility import snapshot as versions
from samora_pipeline.run_log import Line, duration, logger
from samora_pipeline.slices.datasets import UnlabelledSource
from trainers.loop.ending import TimeLimit
from trainers.loop.loop import LoopContext, Training, train
from trainers.loop.memory import fit
from trainers.loop.monitor_rules import changes, mending_command
from trainers.loop.monitors import Monitor
from trainers.pool.datasets import PreparedDataset
from trainers.pool.manifest import describe_choice, draft_choice, pool_manifest
from trainers.pool.pool import Pool
from trainers.settings import BOOTSTRAP, EXACT, StageSettings
from trainers.stages.encoder import BaseEncoder

S = TypeVar("S", bound=StageSettings)

INPUTS_FILE = "inputs.json"
RECORD_FILE = "record.json"
_VERSION = 3
"""raised when the meaning of the inputs or the training itself changes, so that older results are not reused"""


@dataclass(frozen=True)
class RunContext:
    """Where a run finds things and how this session works; nothing here changes a result.

    ``base`` is None where the network is no SAM, ``pool`` where nothing is trained without labels. ``pretraining`` is
    the folder of results that the runs of a dataset share, ``weights`` that of public files. ``stages`` are the run's,
    by name. ``resume_command`` is printed when the process is stopped, ``limit`` is when this session has to end. A
    ``draft`` reads no weights: its networks are random, for measuring what a step takes.
    """

    dataset: PreparedDataset
    pool: Pool | None
    base: BaseEncoder | None
    stages: Mapping[str, "Stage[Any]"]
    folder: Path
    pretraining: Path
    weights: Path
    device: torch.device
    arithmetic: Arithmetic = SINGLE
    resume_command: str = ""
    tensorboard: bool = False
    draft: bool = False
    limit: TimeLimit = field(default_factory=TimeLimit)

    @property
    def run_name(self) -> str:
        """The run and its fold."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @cached_property
    def source(self) -> UnlabelledSource:
        """The slices of the pool, chosen now if no run did so before; every rank comes here.

        Raises:
            DataError: ``E-POOL-..``, ``E-STORE-..``. SamoraError: ``E-POOL-02``.
        """
        return self.read_pool()

    def read_pool(self, without: Selection | None = None) -> UnlabelledSource:
        """The slices of the pool, those left out that a selection of labelled ones has; raises what ``source`` raises.

        Raises:
            DataError: ``E-POOL-09`` nothing is left.
        """
        if self.pool is None:
            raise ValueError("what learns without labels needs a pool")
        self.pool.check()
        if self.draft:
            pool, manifest = draft_choice(self.pool)
            return pool.source(manifest)
        manifest = pool_manifest(self.pool)
        say(describe_choice(manifest, self.pool))
        return self.pool.source(manifest, without)

    def room_for(self, what: str) -> AbstractContextManager[None]:
        """Context in which memory that runs out is ``E-MEM-21``, with the command that goes on without the device."""
        return room_for(what, self.device, f"{self.resume_command} --device cpu".strip())

    def release_source(self) -> None:
        """Forget the slices that were read, before stage 2 reads its own."""
        self.__dict__.pop("source", None)

    @cached_property
    def base_file(self) -> Path | None:
        """The file of the base encoder, fetched if need be; None without a base, and in a draft.

        Raises:
            AssetError: ``E-RUN-23`` a bootstrap that has not run, ``E-WEIGHT-05``. DataError: ``E-WEIGHT-06``.
        """
        if self.base is None or self.draft:
            return None
        if not self.base.is_bootstrapped:
            return self.base.fetched(self.weights)
        bootstrap, copy = self.stages[BOOTSTRAP].result(self), self.folder / BASE_FILE
        for file in (bootstrap, copy):
            if file.is_file():
                return file
        raise missing(BOOTSTRAP)


@dataclass(frozen=True)
class Trainable:
    """What a stage trains: all that is left is to freeze, to move to the device, and to take the steps.

    ``learns`` are the parts of the network that are trained, None for the whole of a network without parts.
    ``training`` describes the steps once everything is where it belongs; ``head`` is trained with the network and
    thrown away. ``monitor`` examines what is learned, None for nothing.
    """

    network: Any
    training: Callable[[], Training]
    learns: frozenset[Part] | None = None
    head: nn.Module | None = None
    monitor: Monitor | None = None


@dataclass(frozen=True)
class Stage(ABC, Generic[S]):
    """One step of a run: its ``name``, on which its random draws depend, and its own frozen ``settings``.

    ``Settings`` is their class, ``file`` the name of the result. The result of a ``shared`` stage lies in a folder
    named by a digest of ``inputs``, and is reused by every run with the same.
    """

    name: str
    settings: S
    digest: str = ""

    Settings: ClassVar[type[StageSettings]]
    file: ClassVar[str]
    shared: ClassVar[bool] = True

    @abstractmethod
    def inputs(self, run: RunConfig) -> Mapping[str, Any]:
        """Everything but the settings that changes the result, as plain JSON; ``run`` has the stages before it."""

    @abstractmethod
    def build(self, run: RunConfig, context: RunContext) -> Trainable:
        """Network, objective and steps, with random weights that depend on the run's seed alone."""

    @abstractmethod
    def save(self, trained: Trainable, run: RunConfig, file: Path) -> None:
        """Write the result to ``file``; the main rank calls this after the last step."""

    def finished(self, trained: Trainable, history: list[Line]) -> None:
        """Say what the history of the training tells; the main rank calls this before ``save``."""

    def trains(self) -> bool:
        """Whether there is anything to train; a teacher that is taken as it is has no steps."""
        return True

    def record(self, run: RunConfig) -> StageRecord:
        """The stage as it stands in config.json, with the digest of its inputs."""
        digest = digest_json(self.key(run)) if self.shared and self.trains() else ""
        return StageRecord(self.name, self.settings.kind, digest, to_plain(self.settings))

    def key(self, run: RunConfig) -> dict[str, Any]:
        """What the digest is taken of: all that changes the result."""
        settings = {name: value for name, value in to_plain(self.settings).items() if name not in EXACT}
        return {"version": _VERSION, "stage": self.name, "settings": settings, **self.inputs(run)}

    def result(self, context: RunContext) -> Path:
        """Where the result lies."""
        if not self.shared:
            return context.folder / self.file
        return context.pretraining / self.digest[:KEY_LENGTH] / self.name / self.file

    def seed(self, run: RunConfig) -> int:
        """The seed of everything that the stage draws."""
        return derived_seed(run.seed, self.name)


@dataclass(frozen=True)
class ResultRecord:
    """record.json beside a shared result; nothing in it takes part in the key."""

    made_for: str
    timing: StageTiming
    versions: dict[str, str]
    schema_version: int = 1


def run_stage(stage: Stage[Any], run: RunConfig, context: RunContext, digest: str) -> StageTiming:
    """Train a stage, going on from where an earlier session was stopped, and write its result.

    Args:
        stage: whose result is not there yet.
        run: the configuration, with all stages.
        context: the places of the run, and the device.
        digest: identifies the settings; a saved state of others is refused.

    Raises:
        SystemExit: 75 when the session has no time left for it.
        SamoraError: ``E-MODEL-04``, ``E-MODEL-05`` the first step changed what is frozen, or did not reach what
            learns. ``E-MEM-21`` the device does not hold network, head or the monitor's panel. Whatever
            ``stage.build`` and ``loop.train`` raise.
    """
    with context.room_for(f"the network of {stage.name}"):
        return _run(stage, run, context, digest)


def _run(stage: Stage[Any], run: RunConfig, context: RunContext, digest: str) -> StageTiming:
    file = stage.result(context)
    context.limit.leave(stage.name, context.resume_command, context.device)
    # Every rank has seen that the file is missing before the main one can write it.
    distributed.barrier()
    trainable = stage.build(run, context)
    with _turn(stage, context):
        if stage.shared and file.is_file():
            say(f"{stage.name}: reused {file.parent}")
            return shared_timing(stage, context) or StageTiming(0.0)
        return _train(stage, trainable, run, context, digest)


@contextmanager
def _turn(stage: Stage[Any], context: RunContext) -> Iterator[None]:
    """Hold the folder of a shared result: of runs that need the same one, one trains it, and the others wait."""
    with ExitStack() as held:
        if stage.shared and distributed.is_main():
            with context.limit.alarm():
                waiting = partial(say, f"{stage.name}: another run trains it; waiting")
                held.enter_context(in_turn(stage.result(context).parent / ".lock", waiting))
        distributed.barrier()
        yield


def _train(stage: Stage[Any], trainable: Trainable, run: RunConfig, context: RunContext, digest: str) -> StageTiming:
    file = stage.result(context)
    if distributed.is_main():
        file.parent.mkdir(parents=True, exist_ok=True)
        if stage.shared:
            sweep(file.parent)
            # For people who wonder why two keys differ.
            write_text(file.parent / INPUTS_FILE, json.dumps(stage.key(run), indent=2, sort_keys=True) + "\n")
    training, fitted = fit(on_its_device(trainable, context.device), context.device, context.arithmetic)
    say(f"{stage.name}: {fitted}")
    where = LoopContext(
        file.parent,
        context.device,
        stage.seed(run),
        digest,
        context.resume_command,
        context.tensorboard,
        context.arithmetic,
        _seconds_after(stage.name, run),
        context.limit,
    )
    history = train(training, where)
    timing = replace(of_history(history), steps=len(history) * len(training.batches(0)))
    if distributed.is_main():
        if trainable.monitor is not None:
            with context.room_for(f"the last panel of {stage.name}"):
                report = trainable.monitor.finish(history, file.parent)
            if command := mending_command(
                stage.name, changes(report.measures, vars(stage.settings)), context.resume_command
            ):
                say(f"try: {command}")
        stage.finished(trainable, history)
        stage.save(trainable, run, file)
        (file.parent / LATEST_CHECKPOINT).unlink(missing_ok=True)
        if stage.shared:
            write_json(ResultRecord(context.run_name, timing, versions()), file.parent / RECORD_FILE)
    distributed.barrier()
    say(f"{stage.name}: done in {duration(timing.seconds)}")
    return timing


def _seconds_after(stage: str, run: RunConfig) -> float:
    """What the stages after one are predicted to take; those that are there already have no prediction."""
    names = [record.name for record in run.stages]
    later = (run.estimates.get(name) for name in names[names.index(stage) + 1 :])
    return sum(60 * estimate.minutes for estimate in later if estimate is not None)


def on_its_device(trainable: Trainable, device: torch.device) -> Training:
    """Freeze and move the network; return its steps, with the check of the first one and the monitor."""
    network = trainable.network
    if trainable.learns is not None:
        freeze(network, trainable.learns)
    network.to(device)
    if trainable.head is not None:
        trainable.head.to(device)
    before = snapshot(network)
    training = trainable.training()
    if trainable.learns is not None:
        training = replace(training, after_first_step=lambda: verify(network, before))
    return training if trainable.monitor is None else replace(training, monitor=trainable.monitor.epoch)


def shared_timing(stage: Stage[Any], context: RunContext) -> StageTiming | None:
    """How long a shared result took; marked as reused when it was made for another run. None without a record."""
    path = stage.result(context).parent / RECORD_FILE
    if not path.is_file():
        return None
    record = read_json(ResultRecord, path)
    return replace(record.timing, reused=record.made_for != context.run_name)


def of_history(history: list[Line]) -> StageTiming:
    """The timing of a training from its epoch lines."""
    return StageTiming(
        seconds=round(sum(line["seconds"] for line in history), 3),
        memory_gib=max((line["memory_gib"] for line in history), default=None),
        epochs=len(history),
        micro_batch=history[-1].get("micro_batch") if history else None,
        recomputed=history[-1].get("recomputed", False) if history else False,
    )


def full_precision(images: Tensor) -> torch.autocast:
    """Context in which views, noise and augmentation are computed as they are defined, not in bfloat16."""
    return torch.autocast(images.device.type, enabled=False)


def missing(stage: str) -> AssetError:
    """The error of a stage whose result another one needs (``E-RUN-23``)."""
    return AssetError("E-RUN-23", stage=stage, found=f"no result of {stage}")


def say(text: str) -> None:
    """Log a line, once for all ranks."""
    if distributed.is_main():
        logger.info(text)
