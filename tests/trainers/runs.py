"""Whole runs of ``samora_train`` in child processes, some of which die at a chosen step."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from samora_pipeline.contracts.checkpoints import Checkpoint, load_checkpoint
from samora_pipeline.contracts.json_io import parse
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, StageRecord

# Imported here so that the children find them loaded.
from samora_pipeline.evaluation import tables  # noqa: F401
from samora_pipeline.inference import job, predictor  # noqa: F401
from samora_pipeline.reporting import curves, overlays, pretraining
from tests.trainers.processes import exit_code, forked, on_ranks
from tests.trainers.small_data import NAME
from trainers.cli import main
from trainers.loop import loop
from trainers.runs import execution  # noqa: F401
from trainers.stages.catalog import STAGES as STAGES_BY_KIND
from trainers.stages.stage import Stage

STAGES = ("bootstrap", "expert_image", "expert_patch", "expert_pixel")
EPOCHS, STEPS, BATCH = 2, 2, 4
TINY = ("--backbone", "samora_tiny", "--backbone-weights", "bootstrap", "--device", "cpu", "--debug")


def read_stage(record: StageRecord) -> Stage[Any]:
    """The stage that a record of config.json describes."""
    kind = STAGES_BY_KIND.get(record.kind)
    return kind(record.name, parse(kind.Settings, record.settings, record.name), record.digest)


def short(*stages: str) -> list[str]:
    """Assignments that make stages end after four steps."""
    names = [f"{stage}.{key}={value}" for stage in stages for key, value in _LENGTH.items()]
    return [word for name in names for word in ("--set", name)]


_LENGTH = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "batch": BATCH}


def command(root: Path, *words: str, trainer: str = "SAMoraTrainer", split: str = "2cases") -> list[str]:
    """The words of a short run on the balls."""
    return ["90", trainer, split, "--root", str(root), *TINY, *short(*STAGES, "finetune"), *words]


def session(words: Sequence[str], *, at: tuple[str, int, signal.Signals] | None = None, pictures: bool = False) -> int:
    """Run the command in a child and return its exit code; ``at`` (stage, step, signal) interrupts it.

    ``pictures``: whether to spend most of the time on drawing them.
    """

    def work() -> int:
        torch.set_num_threads(1)
        if not pictures:
            draw_nothing()
        if at is not None:
            _interrupt(*at)
        return main(list(words))

    return exit_code(forked(work))


def session_on_ranks(
    count: int, words: Sequence[str], *, at: tuple[str, int, signal.Signals] | None = None
) -> list[int]:
    """The same on several ranks; the signal reaches the last of them alone."""

    def work() -> int:
        torch.set_num_threads(1)
        draw_nothing()
        if at is not None and int(os.environ["RANK"]) == count - 1:
            _interrupt(*at)
        return main(list(words))

    return on_ranks(count, work)


def draw_nothing() -> None:
    curves.draw_progress = lambda *arguments: None
    overlays.draw_overlays = lambda *arguments: None
    pretraining.draw_monitoring = lambda *arguments: None
    pretraining.draw_experts = lambda *arguments: None


def _interrupt(stage: str, step: int, number: signal.Signals) -> None:
    """In this child: send the signal to itself while the given step (from 1) of the stage is under way."""
    original = loop._Loop._step

    def step_and_die(self: Any, parts: Any, loaded: Any, batch: Any) -> float | None:
        if self.training.stage == stage and self.state.step + 1 == step:
            os.kill(os.getpid(), number)
        return original(self, parts, loaded, batch)

    loop._Loop._step = step_and_die  # type: ignore[method-assign]


def fold_folder(root: Path, run: str, fold: str = "0") -> Path:
    return root / "results" / NAME / run / f"fold_{fold}"


def final(root: Path, run: str) -> Checkpoint:
    return load_checkpoint(fold_folder(root, run) / FINAL_CHECKPOINT)


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


def artefact_folders(root: Path) -> dict[str, Path]:
    """The folder of each stage-1 result by stage; there must be one of each only."""
    found = [path.parent for path in (root / "results" / NAME / "pretraining").glob("*/*/record.json")]
    assert len({folder.name for folder in found}) == len(found)
    return {folder.name: folder for folder in found}
