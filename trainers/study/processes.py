"""The public commands as processes: started, limited in time, stopped so that they save, and stopped with the study."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
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
    "samora_external": "samora_pipeline.external.cli",
}
"""The console scripts of setup.py. Their modules are started directly, so that a plain copy of the repository does."""

_GRACE = 60.0
"""seconds that a command has to save after it was stopped"""
_POLL = 0.05
_TAIL = 2000


class Process(Protocol):
    """What is used of ``subprocess.Popen``."""

    def wait(self, timeout: float | None = None) -> int:
        """The exit code; subprocess.TimeoutExpired when there is none in time."""
        ...

    def terminate(self) -> None:
        """Send SIGTERM."""
        ...

    def kill(self) -> None:
        """End it."""
        ...


class Launch(Protocol):
    """Starts a command."""

    def __call__(self, words: Sequence[str], log: Path, lock: int, environment: Mapping[str, str], /) -> Process:
        """Start ``words`` with its output in ``log``; it inherits the descriptor ``lock``, and gets more variables."""
        ...


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, its seconds, whether it was stopped, and the last words of its log."""

    code: int
    seconds: float
    stopped: bool
    tail: str


def spawn(words: Sequence[str], log: Path, lock: int, environment: Mapping[str, str], /) -> Process:
    """Start a command; a first word that is none of ours is a program of its own (nnU-Net's)."""
    module = MODULES.get(words[0])
    command = list(words)
    if module is not None:
        command = [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main())", *words[1:]]
    paths = [str(REPOSITORY), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    variables = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, env=variables, pass_fds=(lock,))


class Running:
    """A command under way."""

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        lock: int,
        launch: Launch = spawn,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            stream.write(f"$ {' '.join(words)}\n".encode())
        self._log, self._begun = log, time.monotonic()
        self._stopped_at: float | None = None
        self._process = launch(words, log, lock, environment or {})

    def poll(self) -> Ended | None:
        """How it ended; None while it is under way, after a short wait. One that does not stop in time is killed."""
        try:
            code = self._process.wait(_POLL)
        except subprocess.TimeoutExpired:
            if self._stopped_at is not None and time.monotonic() - self._stopped_at > _GRACE:
                self._process.kill()
            return None
        stopped = self._stopped_at is not None and code != 0
        return Ended(code, time.monotonic() - self._begun, stopped, _last_words(self._log))

    def stop(self) -> None:
        """Have it save and end. It gets one signal only, because a second one would end it without saving."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            with suppress(ProcessLookupError):
                self._process.terminate()


def stop_all(commands: Sequence[Running]) -> None:
    """Have commands save side by side, and wait for them."""
    for command in commands:
        command.stop()
    for command in commands:
        while command.poll() is None:
            pass


def run_command(words: Sequence[str], log: Path, lock: int, launch: Launch = spawn) -> Ended:
    """Run a command until it ends.

    Whatever ends the study ends the command too, except a kill: then the command goes on and keeps the lock.
    """
    command = Running(words, log, lock, launch)
    try:
        while (ended := command.poll()) is None:
            pass
    except BaseException:
        stop_all([command])
        raise
    return ended


def _last_words(log: Path) -> str:
    """The error that a command of ours ended with, or the last line of its log."""
    lines = [line for line in log.read_bytes()[-_TAIL:].decode(errors="replace").splitlines() if line.strip()]
    coded = [line for line in lines if line.startswith("E-")]
    return (coded or lines or [""])[-1]
