"""The project's commands within this process, on the device that is pretended around them."""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import signal
from collections.abc import Callable
from pathlib import Path

from tests.golden.commands import STAGES
from tests.golden.dataset import write_raw_dataset

# Trainer and options; together they touch every objective, decoder, teacher and kind of fusion.
RUNS: dict[str, tuple[str, ...]] = {
    "full": ("SAMoraTrainer", "--recipe", "full", "--set", "teacher_image.checkpointing=true"),
    "scratch": ("SAMoraTrainer", "--recipe", "scratch", "--set", "fusion=mole"),
    "visible": (
        *("SAMoraTrainer", "--recipe", "nocpt", "--levels", "patch"),
        *("--set", "expert_patch.masked_share=0.5"),
    ),
    "hsam": ("HSAMTrainer",),
    "sam2": ("SAMora2Trainer",),
    "autosam": ("AutoSAMTrainer",),
    "adapter": ("SAMAdapterTrainer",),
}


def call(main: Callable[[list[str]], int], words: list[str]) -> tuple[int, str]:
    """Run a command; its exit code and what it wrote, logs included."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    level, before = root.level, signal.getsignal(signal.SIGTERM)
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            try:
                code = main(words)
            except SystemExit as leaving:
                code = int(leaving.code or 0)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        signal.signal(signal.SIGTERM, before)
    gc.collect()
    return code, text.getvalue()


def train(words: list[str]) -> tuple[int, str]:
    from trainers.cli import main

    return call(main, words)


def predict(words: list[str]) -> tuple[int, str]:
    from samora_pipeline.inference.cli import main

    return call(main, words)


def report(words: list[str]) -> tuple[int, str]:
    from samora_pipeline.reporting.report_cli import main

    return call(main, words)


def make_data(root: Path) -> None:
    """Seven drawn scans, planned for 64 px; on the CPU, as always."""
    from planners.cli import main as plan

    write_raw_dataset(root)
    code, text = call(plan, ["-d", "90", "--set", "input_size=64", "--root", str(root)])
    assert code == 0, text


def words_of(root: Path, name: str, trainer: str, *more: str, epochs: int = 1, batch: int = 4) -> list[str]:
    """The words behind ``samora_train`` for a run of two steps an epoch."""
    backbone = ("samora2_tiny", "--backbone-weights", "bootstrap") if "2" in trainer else ("samora_tiny",)
    lengths = {"epochs": epochs, "steps_per_epoch": 2, "batch": batch}
    sets = [word for stage in STAGES for key, value in lengths.items() for word in ("--set", f"{stage}.{key}={value}")]
    place = ("--root", str(root), "--device", "cuda", "--name", name, "--backbone", *backbone)
    return ["90", trainer, "2cases", *place, *sets, *more]
