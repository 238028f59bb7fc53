"""One session of a study: its steps in order, each as far as time allows, and the state of each on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.studies.commands import Launch, run_command, spawn
from benchmarks.studies.state import StateFile, Status
from benchmarks.studies.steps import Step
from samora_pipeline.command_line import say
from samora_pipeline.errors import SamoraError
from samora_pipeline.run_log import duration

LOGS = "logs"
_LEAST = 5.0
"""seconds below which no further command is begun"""
_INTERRUPTED = (130, 143)


@dataclass(frozen=True)
class Limits:
    """``budget``: seconds of all sessions together, ``chunk``: seconds of this one (None: no limit)."""

    budget: float | None = None
    chunk: float | None = None

    def deadline(self, spent: float) -> float | None:
        """The moment (of time.monotonic) at which this session has to end."""
        left = [self.chunk, None if self.budget is None else self.budget - spent]
        known = [seconds for seconds in left if seconds is not None]
        return time.monotonic() + min(known) if known else None


class Session:
    """Runs what is missing of ``steps`` and keeps the state. ``folder`` gets the logs."""

    def __init__(self, folder: Path, state: StateFile, lock: int, limits: Limits, launch: Launch = spawn) -> None:
        self._folder, self._state, self._lock, self._launch = folder, state, lock, launch
        self._deadline = limits.deadline(state.state.seconds)

    def run(self, steps: Sequence[Step], *, validate: bool) -> bool:
        """Run the steps; return whether all are finished. ``validate``: also take up runs that are only trained.

        A step that fails does not stop the others; it is tried again in the next session.
        """
        for step in steps:
            if not self._open(step, validate):
                continue
            if self._out_of_time():
                return False
            self._step(step)
            if step.name.startswith("prepare/") and self._state.state.step(step.name).status != "done":
                return False
        return not any(self._open(step, validate) for step in steps)

    def failed(self, steps: Sequence[Step]) -> list[tuple[str, str]]:
        """Names and last words of the steps that failed."""
        records = [(step.name, self._state.state.step(step.name)) for step in steps]
        return [(name, record.message) for name, record in records if record.status == "failed"]

    def _open(self, step: Step, validate: bool) -> bool:
        status = self._state.state.step(step.name).status
        return status not in (("done",) if validate else ("done", "trained"))

    def _out_of_time(self) -> bool:
        return self._deadline is not None and self._deadline - time.monotonic() < _LEAST

    def _step(self, step: Step) -> None:
        before = self._state.state.step(step.name)
        record = replace(before, sessions=before.sessions + 1, message="")
        say(f"{step.name}: {'goes on' if before.sessions else 'begins'}")
        self._state.update(step.name, replace(record, status="stopped"))
        for status, seconds, message in self._commands(step):
            record = replace(record, status=status, seconds=round(record.seconds + seconds, 3), message=message)
            self._state.update(step.name, record)
        words = f": {record.message}" if record.message else ""
        say(f"{step.name}: {record.status} after {duration(record.seconds)}{words}")

    def _commands(self, step: Step) -> Iterator[tuple[Status, float, str]]:
        """Run a step's commands; yield status, seconds and message after each, at last those of the whole step."""
        log = self._folder / LOGS / f"{step.name.replace('/', '__')}.log"
        try:
            for words in step.commands():
                ended = run_command(words, log, self._lock, self._deadline, self._launch)
                if ended.stopped or ended.code in _INTERRUPTED:
                    yield "stopped", ended.seconds, ""
                    return
                if ended.code != 0:
                    yield "failed", ended.seconds, f"exit code {ended.code}: {ended.tail}"
                    return
                yield "stopped", ended.seconds, ""
            outcome = step.outcome()
        except SamoraError as error:
            yield "failed", 0.0, f"{error.code} {error.what}: {error.found}"
            return
        yield outcome, 0.0, "" if outcome != "failed" else f"its commands left no result, see {log.name}"
