"""The public commands as processes: started, limited in time, stopped so that they save, and stopped with the study."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

REPOSITORY = Path(__file__).resolve().parents[2]

MODULES = {
    "samora_convert": "dataset_conversion.cli",
    "samora_plan_and_preprocess": "planners.cli",
    "samora_train": "trainers.cli",
    "samora_predict": "samora_pipeline.inference.cli",
    "samora_evaluate": "samora_pipeline.evaluation.cli",
    "samora_compare": "samora_pipeline.reporting.compare_cli",
    "samora_suggest": "samora_pipeline.labelling.suggest_cli",
    "samora_label": "samora_pipeline.labelling.label_cli",
}
"""The console scripts of setup.py. Their modules are started directly, so that a plain copy of the repository does."""

_GRACE = 60.0
"""seconds that a command has to save after it was asked to stop"""
_TAIL = 2000


class Process(Protocol):
    """What is used of ``subprocess.Popen``."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; subprocess.TimeoutExpired when there is none in time."""
        ...

    def terminate(self) -> None:
        """Ask it to stop."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


Launch = Callable[[Sequence[str], Path, int], Process]
"""(words, log file, descriptor to inherit) -> the process"""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, its seconds, whether time stopped it, and the last words of its log."""

    code: int
    seconds: float
    stopped: bool
    tail: str


def spawn(words: Sequence[str], log: Path, lock: int) -> Process:
    """Start a command; a first word that is none of ours is a program of its own (nnU-Net's)."""
    module = MODULES.get(words[0])
    command = list(words)
    if module is not None:
        command = [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())", *words[1:]]
    paths = [str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=environment, pass_fds=(lock,))


def run_command(words: Sequence[str], log: Path, lock: int, deadline: float | None, launch: Launch = spawn) -> Ended:
    """Run a command until it ends or ``deadline`` (of time.monotonic) comes; then it is asked to save and stop.

    Whatever ends the study ends the command too, except a kill: then the command goes on and keeps the lock.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        stream.write(f"$ {' '.join(words)}\n".encode())
    begun = time.monotonic()
    process = launch(words, log, lock)
    try:
        code, stopped = process.wait(None if deadline is None else max(0.0, deadline - begun)), False
    except subprocess.TimeoutExpired:
        code, stopped = _stop(process), True
    except BaseException:
        _stop(process)
        raise
    return Ended(code, time.monotonic() - begun, stopped and code != 0, _last_words(log))


def _stop(process: Process) -> int:
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        return process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(_GRACE)


def _last_words(log: Path) -> str:
    """The error that a command of ours ended with, or the last line of its log."""
    lines = [line for line in log.read_bytes()[-_TAIL:].decode(errors="replace").splitlines() if line.strip()]
    coded = [line for line in lines if line.startswith("E-")]
    return (coded or lines or [""])[-1]
