"""Steps under limits of time: what is stopped is asked to save, and goes on in the next session."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.studies import study
from benchmarks.studies.state import Frame, StateFile, Status, held
from benchmarks.studies.study import Limits, Session
from samora_pipeline.errors import ResourceError

FRAME = Frame("Balls", "0", "tiny", 64, "packaged", ())
_SLOW = """
import pathlib, signal, sys, time
saved = pathlib.Path(sys.argv[1])
def leave(*_):
    saved.write_text('saved')
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
if not saved.exists():
    pathlib.Path(sys.argv[1] + '.ready').touch()
    time.sleep(60)
"""


@dataclass(frozen=True)
class Program:
    """A step that runs one line of Python."""

    name: str
    code: str
    argument: str = ""
    result: Status = "done"

    def commands(self) -> Iterator[list[str]]:
        yield [sys.executable, "-c", self.code, self.argument]

    def outcome(self) -> Status:
        return self.result


def sit(folder: Path, steps: list[Program], limits: Limits | None = None, *, validate: bool = True) -> bool:
    with held(folder) as lock:
        state = StateFile(folder, FRAME, {})
        return Session(folder, state, lock, limits or Limits()).run(steps, validate=validate)


def status(folder: Path, name: str) -> tuple[Status, int]:
    record = StateFile(folder, FRAME, {}).state.step(name)
    return record.status, record.sessions


def test_a_chunk_stops_a_command_so_that_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_LEAST", 0.5)
    steps = [Program("slow", _SLOW, str(tmp_path / "saved")), Program("next", "")]
    begun = time.monotonic()
    assert not sit(tmp_path, steps, Limits(chunk=2.0))
    assert time.monotonic() - begun < 20
    assert (tmp_path / "saved").read_text() == "saved"
    assert status(tmp_path, "slow") == ("stopped", 1)
    assert status(tmp_path, "next") == ("open", 0)
    assert sit(tmp_path, steps)
    assert status(tmp_path, "slow") == ("done", 2)
    assert status(tmp_path, "next") == ("done", 1)


def test_the_budget_counts_all_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "_LEAST", 0.1)
    steps = [Program("first", "import time; time.sleep(0.6)"), Program("second", "")]
    assert sit(tmp_path, steps[:1])
    assert not sit(tmp_path, steps, Limits(budget=0.6))
    assert status(tmp_path, "second") == ("open", 0)
    assert sit(tmp_path, steps, Limits(budget=60.0))


def test_a_failure_stops_no_other_step_and_is_tried_again(tmp_path: Path) -> None:
    marker = tmp_path / "there"
    fails = f"import pathlib, sys; sys.exit(0 if pathlib.Path({str(marker)!r}).exists() else 'E-X-01 no marker')"
    steps = [Program("fails", fails), Program("other", "")]
    assert not sit(tmp_path, steps)
    with held(tmp_path) as lock:
        message = Session(tmp_path, StateFile(tmp_path, FRAME, {}), lock, Limits()).failed(steps)
    assert message == [("fails", "exit code 1: E-X-01 no marker")]
    assert status(tmp_path, "other") == ("done", 1)
    marker.touch()
    assert sit(tmp_path, steps)
    assert status(tmp_path, "fails") == ("done", 2)


def test_trained_runs_wait_for_a_machine_with_scans(tmp_path: Path) -> None:
    assert sit(tmp_path, [Program("run", "", result="trained")], validate=False)
    assert sit(tmp_path, [Program("run", "raise SystemExit(1)")], validate=False)
    assert status(tmp_path, "run") == ("trained", 1)
    assert sit(tmp_path, [Program("run", "")], validate=True)
    assert status(tmp_path, "run") == ("done", 2)


def test_two_studies_do_not_share_a_folder(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(ResourceError, match="E-STUDY-05"), held(tmp_path):
        pass
