"""One session of a study: its steps, several at a time and each as far as time allows; the state of each is on disk."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from samora_pipeline import resources
from samora_pipeline.command_line import EXIT_OUT_OF_TIME, say
from samora_pipeline.errors import SamoraError
from samora_pipeline.run_log import duration
from trainers.study.processes import Launch, Running, spawn, stop_all
from trainers.study.state import StateFile, Status, StepRecord

LOGS = "logs"
_LEAST = 5.0
"""seconds below which no further command is begun"""
_INTERRUPTED = (130, 138, 143, EXIT_OUT_OF_TIME)
_GPUS = "CUDA_VISIBLE_DEVICES"


class Step(Protocol):
    """One entry of study.json. Its commands run one after another, each after the one before it has succeeded; all of
    them may be run again after any interruption.
    """

    @property
    def name(self) -> str:
        """Its key."""
        ...

    def commands(self) -> Iterator[list[str]]:
        """What is still to be run."""
        ...

    def outcome(self) -> Status:
        """``done``, or ``trained``, after all commands have succeeded."""
        ...


@dataclass(frozen=True)
class Limits:
    """``budget``: seconds of commands in all sessions together, ``chunk``: seconds of this one (None: no limit)."""

    budget: float | None = None
    chunk: float | None = None

    def deadline(self, spent: float) -> float | None:
        """The moment (of time.monotonic) at which this session has to end."""
        left = [self.chunk, None if self.budget is None else self.budget - spent]
        known = [seconds for seconds in left if seconds is not None]
        return time.monotonic() + min(known) if known else None


@dataclass
class _Job:
    """A step under way in a place of its own, with its record and its present command."""

    step: Step
    place: int
    record: StepRecord
    commands: Iterator[list[str]]
    running: Running | None = None


class Session:
    """Runs what is missing of steps and keeps the state.

    ``folder`` gets the logs; ``lock`` is inherited by the commands. ``at_once`` steps run side by side, each with its
    share of this process's cores, memory and GPUs.
    """

    def __init__(
        self, folder: Path, state: StateFile, lock: int, limits: Limits, launch: Launch = spawn, at_once: int = 1
    ) -> None:
        self._folder, self._state, self._lock, self._launch, self._at_once = folder, state, lock, launch, at_once
        self._deadline = limits.deadline(state.state.seconds)

    def run(self, steps: Sequence[Step], *, validate: bool = True) -> bool:
        """Run the steps; return whether all are finished. ``validate``: also take up runs that are only trained.

        A step that fails does not stop the others; it is tried again in the next session. Whatever ends this process
        (but a kill) has the commands save first.
        """
        waiting = deque(step for step in steps if self._open(step, validate))
        places = list(range(self._at_once))
        jobs: list[_Job] = []
        try:
            while jobs or (waiting and not self._out_of_time()):
                while waiting and places and not self._out_of_time():
                    jobs.append(self._begin(waiting.popleft(), places.pop(0)))
                for job in [job for job in jobs if self._advance(job)]:
                    jobs.remove(job)
                    places.append(job.place)
        except BaseException:
            stop_all([job.running for job in jobs if job.running is not None])
            raise
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

    def _begin(self, step: Step, place: int) -> _Job:
        before = self._state.state.step(step.name)
        say(f"{step.name}: {'resumed' if before.sessions else 'started'}")
        job = _Job(step, place, replace(before, sessions=before.sessions + 1, message=""), step.commands())
        self._note(job, "stopped")
        return job

    def _advance(self, job: _Job) -> bool:
        """Take a step as far as possible without a long wait; return whether its session is over."""
        try:
            over = self._command_over(job, job.running) if job.running is not None else False
            if over is None:
                return False
            if not over and (words := next(job.commands, None)) is not None:
                job.running = Running(words, self._log(job), self._lock, self._launch, self._share(job.place))
                return False
            if not over:
                outcome = job.step.outcome()
                lost = f"its commands left no result, see {self._log(job).name}"
                self._note(job, outcome, message=lost if outcome == "failed" else "")
        except SamoraError as error:
            self._note(job, "failed", message=f"{error.code} {error.what}: {error.found}")
        why = f": {job.record.message}" if job.record.message else ""
        say(f"{job.step.name}: {job.record.status} after {duration(job.record.seconds)}{why}")
        return True

    def _command_over(self, job: _Job, running: Running) -> bool | None:
        """Whether a command has ended its step's session; None while it is under way."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            running.stop()
        ended = running.poll()
        if ended is None:
            return None
        job.running = None
        failed = ended.code != 0 and not ended.stopped and ended.code not in _INTERRUPTED
        message = f"exit code {ended.code}: {ended.tail}" if failed else ""
        self._note(job, "failed" if failed else "stopped", ended.seconds, message)
        return ended.code != 0

    def _note(self, job: _Job, status: Status, seconds: float = 0.0, message: str = "") -> None:
        """Record where a step is, on disk first."""
        total = round(job.record.seconds + seconds, 3)
        job.record = replace(job.record, status=status, seconds=total, message=message)
        self._state.update(job.step.name, job.record)

    def _log(self, job: _Job) -> Path:
        return self._folder / LOGS / f"{job.step.name.replace('/', '__')}.log"

    def _share(self, place: int) -> dict[str, str]:
        """The variables that give a place its part of the machine; nothing is shared where one step runs at a time."""
        if self._at_once == 1:
            return {}
        share = {
            resources.CORES: str(max(1, resources.cores().value // self._at_once)),
            resources.MEMORY: str((resources.memory().value >> 20) // self._at_once),
        }
        gpus = [gpu for gpu in os.environ.get(_GPUS, "").split(",") if gpu]
        return {**share, _GPUS: gpus[place % len(gpus)]} if gpus else share
