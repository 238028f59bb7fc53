"""Steps under limits of time: what is stopped is asked to save, and resumes in the next session."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from samora_pipeline import resources
from samora_pipeline.errors import DataError, ResourceError
from trainers.study import session as module
from trainers.study.session import Limits, Session
from trainers.study.state import StateFile, Status, held

FRAME = {"dataset": "Balls", "settings": ("a=1",)}
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


def run(
    folder: Path, steps: list[Program], limits: Limits | None = None, *, validate: bool = True, at_once: int = 1
) -> bool:
    with held(folder) as lock:
        state = StateFile(folder, FRAME, {})
        return Session(folder, state, lock, limits or Limits(), at_once=at_once).run(steps, validate=validate)


def status(folder: Path, name: str) -> tuple[Status, int]:
    record = StateFile(folder, FRAME, {}).state.step(name)
    return record.status, record.sessions


def test_a_chunk_stops_a_command_so_that_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST", 0.5)
    steps = [Program("slow", _SLOW, str(tmp_path / "saved")), Program("next", "")]
    begun = time.monotonic()
    assert not run(tmp_path, steps, Limits(chunk=2.0))
    assert time.monotonic() - begun < 20
    assert (tmp_path / "saved").read_text() == "saved"
    assert status(tmp_path, "slow") == ("stopped", 1)
    assert status(tmp_path, "next") == ("open", 0)
    assert run(tmp_path, steps)
    assert status(tmp_path, "slow") == ("done", 2)
    assert status(tmp_path, "next") == ("done", 1)


def test_the_budget_counts_all_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST", 0.1)
    steps = [Program("first", "import time; time.sleep(0.6)"), Program("second", "")]
    assert run(tmp_path, steps[:1])
    assert not run(tmp_path, steps, Limits(budget=0.6))
    assert status(tmp_path, "second") == ("open", 0)
    assert run(tmp_path, steps, Limits(budget=60.0))


def test_a_failure_stops_no_other_step_and_is_tried_again(tmp_path: Path) -> None:
    marker = tmp_path / "there"
    fails = f"import pathlib, sys; sys.exit(0 if pathlib.Path({str(marker)!r}).exists() else 'E-X-01 no marker')"
    steps = [Program("fails", fails), Program("other", "")]
    assert not run(tmp_path, steps)
    with held(tmp_path) as lock:
        message = Session(tmp_path, StateFile(tmp_path, FRAME, {}), lock, Limits()).failed(steps)
    assert message == [("fails", "exit code 1: E-X-01 no marker")]
    assert status(tmp_path, "other") == ("done", 1)
    marker.touch()
    assert run(tmp_path, steps)
    assert status(tmp_path, "fails") == ("done", 2)


def test_trained_runs_wait_for_a_machine_with_scans(tmp_path: Path) -> None:
    assert run(tmp_path, [Program("run", "", result="trained")], validate=False)
    assert run(tmp_path, [Program("run", "raise SystemExit(1)")], validate=False)
    assert status(tmp_path, "run") == ("trained", 1)
    assert run(tmp_path, [Program("run", "")], validate=True)
    assert status(tmp_path, "run") == ("done", 2)


def test_two_studies_do_not_share_a_folder(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(ResourceError, match="E-STUDY-05"), held(tmp_path):
        pass


def test_a_study_of_another_frame_is_refused(tmp_path: Path) -> None:
    StateFile(tmp_path, FRAME, {}).update("a", StateFile(tmp_path, FRAME, {}).state.step("a"))
    with pytest.raises(DataError, match="E-STUDY-04") as caught:
        StateFile(tmp_path, {**FRAME, "dataset": "Cubes"}, {})
    assert caught.value.found == "dataset Balls -> Cubes"


_WAITS = """
import os, pathlib, sys, time
place = pathlib.Path(sys.argv[1])
(place / f"{os.getpid()}.there").touch()
deadline = time.monotonic() + 20
while len(list(place.glob("*.there"))) < 2 and time.monotonic() < deadline:
    time.sleep(0.02)
(place / f"{os.getpid()}.share").write_text(
    " ".join(os.environ.get(name, "-") for name in ("SAMORA_CORES", "CUDA_VISIBLE_DEVICES"))
)
sys.exit(0 if len(list(place.glob("*.there"))) == 2 else 1)
"""


def test_two_steps_at_once_share_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("SAMORA_CORES", "1")
    assert run(tmp_path / "study", [Program(name, _WAITS, str(tmp_path)) for name in "ab"], at_once=2)
    assert sorted(path.read_text() for path in tmp_path.glob("*.share")) == ["1 3", "1 5"]


def test_a_share_is_what_the_resources_are(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = resources.memory().value >> 20
    variables = {"SAMORA_CORES": "1", "SAMORA_MEMORY_MIB": str(whole // 2)}
    assert resources.cores(variables=variables) == resources.Amount(1, "SAMORA_CORES=1")
    assert resources.memory(variables=variables).value >> 20 < whole // 2


def test_what_ends_the_study_has_all_commands_save(tmp_path: Path) -> None:
    marks = [tmp_path / name for name in "ab"]

    class Ending(Program):
        """Ends the study once both are under way."""

        def commands(self) -> Iterator[list[str]]:
            while not all(mark.with_name(f"{mark.name}.ready").exists() for mark in marks):
                yield [sys.executable, "-c", "import time; time.sleep(0.05)"]
            raise SystemExit(143)

    steps = [*(Program(mark.name, _SLOW, str(mark)) for mark in marks), Ending("end", "")]
    with pytest.raises(SystemExit):
        run(tmp_path, steps, at_once=3)
    assert [mark.read_text() for mark in marks] == ["saved", "saved"]
    assert status(tmp_path, "a") == ("stopped", 1)
    assert run(tmp_path, steps[:2], at_once=2)
