"""Random faults, kills, failing calls, full disks, pairs of processes, edits and hostile models: some in the gate.

The rest is behind ``-m slow``; each program of this folder makes any number of trials (docs/reliability.md).
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from pathlib import Path

import pytest

from tests.reliability import edits, failing_calls, full_disk, hostile, kills, pairs, random_faults, scale
from tests.reliability.base import COMMANDS, PREPROCESSED, Workplace, differences, make, results, train
from tests.reliability.forked import start, wait

SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    made = tmp_path_factory.mktemp("made")
    for folder in (made, *list(made.parents)[:2]):
        folder.chmod(0o755)  # faults of permission are met by another user
    scratch = tmp_path_factory.mktemp("scratch")
    scratch.chmod(0o777)
    return Workplace(make(made), scratch)


def seeds(fast: int, all_of_them: int, first: int = 0) -> list[object]:
    """The seeds of the gate, and those behind ``slow``."""
    numbers = range(first, first + all_of_them)
    return [pytest.param(number, marks=() if number < first + fast else SLOW) for number in numbers]


@pytest.mark.parametrize("seed", seeds(8, 2000))
def test_a_random_fault_is_harmless_or_said(place: Workplace, seed: int) -> None:
    found = random_faults.trial(place, seed)
    assert found.verdict in random_faults.RIGHT, str(found)


@pytest.mark.parametrize("seed", seeds(2, 500))
def test_a_killed_command_costs_nothing(place: Workplace, seed: int) -> None:
    found = kills.trial(place, seed)
    assert found.verdict == "identical", str(found)


@pytest.mark.parametrize("seed", seeds(4, 700))
def test_a_failing_call_costs_nothing(place: Workplace, seed: int) -> None:
    found = failing_calls.trial(place, seed)
    assert found.verdict in failing_calls.RIGHT, str(found)


@SLOW
@pytest.mark.parametrize("seed", range(100))
def test_a_full_disk_is_said_and_costs_nothing(place: Workplace, seed: int) -> None:
    try:
        found = full_disk.trial(place, seed)
    except PermissionError as error:
        pytest.skip(str(error))
    assert found.verdict in full_disk.RIGHT, str(found)


@SLOW
@pytest.mark.parametrize("flush", [0.0, 0.5])
@pytest.mark.parametrize("name", pairs.PAIRS)
def test_two_processes_leave_what_one_would(place: Workplace, name: str, flush: float) -> None:
    found = pairs.trial(place, 0, name, flush)
    assert found.verdict == "right", str(found)


@pytest.mark.parametrize("name", edits.EDITS)
def test_an_edited_value_is_refused_or_said(place: Workplace, name: str) -> None:
    found = edits.trial(place, name)
    said = edits.EDITS[name].said
    if said:
        assert (found.verdict, found.outcome.status) == ("said", 0), str(found)
    else:
        assert found.verdict in {"refused", "identical"}, str(found)


@pytest.mark.parametrize("name", hostile.VALUES)
def test_a_hostile_model_is_used_or_refused(place: Workplace, name: str) -> None:
    assert hostile.trial(place, name) == []


def test_the_harness_itself_sees_a_wrong_result(place: Workplace, tmp_path: Path) -> None:
    """A label that is changed to another valid one is no fault that anybody could see, and the results differ."""
    command, _ = random_faults.STAGES["evaluate"]
    expected, usual = place.reference("stage evaluate", command)
    folder = place.setup(command.parts)
    names = sorted((folder / "preds").glob("*.nii.gz"))
    names[0].write_bytes(names[1].read_bytes())
    outcome = place.run(command.words(folder))
    differing = tuple(differences(expected, results(folder, command.compared)))
    file = names[0].relative_to(folder).as_posix()
    assert random_faults.Trial(0, "evaluate", file, "flip", "", outcome, usual, differing).verdict == "SILENT"


def test_planning_again_while_a_training_runs_is_refused(place: Workplace) -> None:
    command = COMMANDS["train_fast"]
    expected, _ = place.reference("train_fast", command)
    folder = place.setup(command.parts)
    log = place.scratch / "training.log"
    child = start(command.words(folder), folder, log)
    while not any(folder.rglob("fold_0/config.json")):
        assert os.waitpid(child, os.WNOHANG) == (0, 0), log.read_text()
        time.sleep(0.001)
    os.kill(child, signal.SIGSTOP)
    planned = place.run(COMMANDS["replan"].words(folder))
    os.kill(child, signal.SIGCONT)
    status, _ = wait(child, 120)
    assert (planned.status, planned.code) == (6, "E-LOCK-01"), planned.text
    assert status == 0, log.read_text()
    assert results(folder, command.compared) == expected


def test_slices_of_another_plan_are_not_trained_on(place: Workplace) -> None:
    """The plan of one axis beside the slices of another, as after a copy that was interrupted."""
    command = COMMANDS["train_fast"]
    folder = place.setup(command.parts)
    plans = (folder / PREPROCESSED / "plans.json").read_bytes()
    assert place.run(COMMANDS["replan"].words(folder)).status == 0
    (folder / PREPROCESSED / "plans.json").write_bytes(plans)
    outcome = place.run(command.words(folder))
    assert (outcome.status, outcome.code) == (4, "E-STORE-04"), outcome.text


def test_the_fix_of_a_damaged_case_makes_a_run_go_on(place: Workplace) -> None:
    folder = place.setup(("midroot",))
    for path in (folder / PREPROCESSED / "slices").glob("*.b2nd"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 8
        path.write_bytes(data)
    outcome = place.run(train("n", "-c"), seconds=120)
    assert outcome.code == "E-STORE-02", outcome.text
    (fix,) = re.findall(r"fix: (samora_plan.*?)  writes", outcome.text)
    assert place.run(shlex.split(fix)).status == 0
    assert place.run(train("n", "-c"), seconds=120).status == 0


@SLOW
def test_the_last_of_many_cases_costs_what_the_first_did(tmp_path: Path) -> None:
    first, last = scale.cases(tmp_path, 5000)
    assert last <= 1.2 * first


@SLOW
def test_a_scan_of_2000_slices_fits_into_three_gigabytes(tmp_path: Path) -> None:
    used = scale.slices(tmp_path, 2000)
    assert {name: size for name, size in used.items() if size > 3000} == {}
