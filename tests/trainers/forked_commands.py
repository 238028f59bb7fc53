"""Commands of a study as forked children, so that none of them imports torch again."""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

# Imported here so that the children find them loaded.
from samora_pipeline.evaluation import tables  # noqa: F401
from samora_pipeline.evaluation.comparison import PairedTable
from samora_pipeline.inference import job, predictor  # noqa: F401
from samora_pipeline.reporting import curves, forest, overlays
from tests.trainers.processes import forked
from trainers.runs import execution  # noqa: F401
from trainers.study.processes import MODULES

DRAWN = "forest_physical_Dice.png"


class Child:
    """What a study uses of ``subprocess.Popen``, for a forked child."""

    def __init__(self, process: BaseProcess) -> None:
        self._process = process

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("forked", timeout or 0.0)
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()


def launch(words: Sequence[str], log: Path, lock: int, environment: Mapping[str, str]) -> Child:
    """Run a command of ours in a child; the descriptor of the lock is inherited by forking."""
    main = importlib.import_module(MODULES[words[0]]).main

    def work() -> int:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        torch.set_num_threads(1)
        curves.draw_progress = lambda *arguments: None
        overlays.draw_overlays = lambda *arguments: None
        draw = forest.draw_forest

        # One of fourteen forest plots shows that they are asked for.
        def draw_one(table: PairedTable, path: Path, warnings: Sequence[str] = ()) -> None:
            if path.name == DRAWN:
                draw(table, path, warnings)

        forest.draw_forest = draw_one
        return int(main(list(words[1:])))

    return Child(forked(work, dict(environment)))
