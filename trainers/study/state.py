"""study.json: what a study is about and how far each of its steps is, written whole after every change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.errors import DataError, ResourceError

STUDY_FILE = "study.json"
_LOCK = ".study.lock"

Status = Literal["open", "stopped", "failed", "trained", "done"]
"""``trained``: not scored, because the scans themselves are not on this machine"""


@dataclass(frozen=True)
class StepRecord:
    """One step: ``seconds`` over all ``sessions``, and ``message`` (the last words of a command that failed)."""

    status: Status = "open"
    seconds: float = 0.0
    sessions: int = 0
    message: str = ""


@dataclass(frozen=True)
class StudyState:
    """The content of study.json.

    ``frame`` is what may not change while the study is under way, because its steps share it; ``machine`` describes the
    first session.
    """

    frame: dict[str, Any]
    machine: dict[str, str] = field(default_factory=dict)
    steps: dict[str, StepRecord] = field(default_factory=dict)
    schema_version: int = 2

    @property
    def seconds(self) -> float:
        """Seconds spent in commands so far."""
        return sum(step.seconds for step in self.steps.values())

    def step(self, name: str) -> StepRecord:
        """How far a step is."""
        return self.steps.get(name, StepRecord())

    def with_step(self, name: str, record: StepRecord) -> StudyState:
        """Return a copy in which ``name`` is at ``record``."""
        return replace(self, steps={**self.steps, name: record})


class StateFile:
    """The state of the study in ``folder``, in memory and on disk."""

    def __init__(self, folder: Path, frame: dict[str, Any], machine: dict[str, str]) -> None:
        """Read study.json, or begin one.

        Raises:
            DataError: ``E-STUDY-04`` the folder holds a study of other settings.
        """
        self._path, frame = folder / STUDY_FILE, to_plain(frame)
        self.state = read_json(StudyState, self._path) if self._path.is_file() else StudyState(frame, machine)
        if self.state.frame != frame:
            names = [name for name in {**self.state.frame, **frame} if self.state.frame.get(name) != frame.get(name)]
            found = "; ".join(f"{name} {self.state.frame.get(name)} -> {frame.get(name)}" for name in names)
            raise DataError("E-STUDY-04", folder=folder, found=found)

    def update(self, name: str, record: StepRecord) -> None:
        """Note a step, on disk first."""
        state = self.state.with_step(name, record)
        write_json(state, self._path)
        self.state = state


@contextmanager
def held(folder: Path) -> Iterator[int]:
    """Hold a study's folder; yields the descriptor of the lock, which commands inherit.

    A command that outlives a killed study keeps the hold, so that no second one trains in the same run folder.

    Raises:
        ResourceError: ``E-STUDY-05`` when another study, or a command of a killed one, holds it.
    """
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResourceError("E-STUDY-05", found=str(folder)) from error
        yield stream.fileno()
