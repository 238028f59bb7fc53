"""samora_study on balls: the table of runs, what is refused, and studies that are killed and resumed."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import pandas as pd
import pytest
import torch

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.scores import Summary
from tests.trainers.forked_commands import launch
from tests.trainers.processes import exit_code, forked
from tests.trainers.small_data import INPUT, NAME, make_dataset
from trainers.study.cli import main
from trainers.study.session import Session
from trainers.study.state import STUDY_FILE

_LENGTH = {"epochs": 2, "steps_per_epoch": 2, "batch": 2}
_STAGES = ("expert_pixel", "finetune")
_SET = {f"{stage}.{name}": value for stage in _STAGES for name, value in _LENGTH.items()}


def table(path: Path, seeds: Sequence[int] = (0, 1), folds: Sequence[int] = (0,)) -> Path:
    """A study of SAMed and of the pixel expert alone."""
    settings = {name: value for name, value in _SET.items() if name.startswith("finetune")}
    expert = {name: value for name, value in _SET.items() if name not in settings}
    path.write_text(
        f"""
        dataset = "Balls"
        seeds = {list(seeds)}
        folds = {list(folds)}
        [options]
        backbone = "samora_tiny"
        device = "cpu"
        split = "2cases"
        set = {_toml({**settings, "model.input_size": INPUT})}
        [runs.samed]
        trainer = "SAMedTrainer"
        set = {{ "finetune.schedule_epochs" = "none" }}
        [runs.pixel]
        trainer = "SAMoraTrainer"
        recipe = "scratch"
        levels = ["pixel"]
        set = {_toml(expert)}
        """
    )
    return path


def study(root: Path, file: Path, *words: str) -> int:
    return exit_code(forked(lambda: main([str(file), "--root", str(root), *words], launch)))


def records(root: Path, file: Path) -> dict[str, dict[str, str]]:
    path = root / "studies" / file.stem / STUDY_FILE
    return json.loads(path.read_text())["steps"] if path.is_file() else {}


def kill(root: Path, file: Path, number: signal.Signals, seconds: float, *words: str) -> None:
    """Begin or resume the study, and end it after some time; wait for the commands that a SIGKILL leaves running."""

    def work() -> int:
        os.setpgid(0, 0)
        return main([str(file), "--root", str(root), *words], launch)

    process = forked(work)
    process.join(seconds)
    if process.exitcode is None:
        # As when a node is taken away, the commands are killed with the study.
        send = os.killpg if number is signal.SIGKILL else os.kill
        send(process.pid or 0, number)
    assert exit_code(process) in (-number, 128 + number, 0)


def same_results(one: Path, other: Path) -> int:
    """How many final checkpoints there are; all are equal bit by bit, and so are the scores."""
    places = sorted(path.relative_to(one) for path in one.rglob("checkpoint_final.safetensors"))
    assert places == sorted(path.relative_to(other) for path in other.rglob("checkpoint_final.safetensors"))
    for place in places:
        tensors = [load_checkpoint(root / place).tensors for root in (one, other)]
        assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
        scores = [read_json(Summary, (root / place).with_name("summary.json")) for root in (one, other)]
        assert scores[0].foreground_mean == scores[1].foreground_mean
    return len(places)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A root with a finished study of four cells, and its file."""
    root = make_dataset(tmp_path_factory.mktemp("whole"))
    file = table(root / "small.toml")
    assert study(root, file) == 0
    return root, file


def test_a_study_ends_with_its_comparison(whole: tuple[Path, Path]) -> None:
    root, file = whole
    folder = root / "studies" / "small"
    names = [f"{run}/s{seed}/fold_0" for seed in (0, 1) for run in ("samed", "pixel")]
    assert [record["status"] for record in records(root, file).values()] == ["done"] * 4
    assert list(records(root, file)) == names
    lines = [line.split() for line in (folder / "cells.txt").read_text().splitlines()]
    assert [line[:4] for line in lines[1:]] == [
        [name.split("/")[0], name.split("/")[1][1:], "0", "done"] for name in names
    ]
    fold = root / "results" / NAME / "SAMedTrainer__2cases__samed-s0" / "fold_0"
    assert float(lines[1][-1]) == pytest.approx(
        read_json(Summary, fold / "summary.json").foreground_mean.Dice, abs=5e-5
    )
    paired = pd.read_csv(folder / "compare_2cases" / "paired.csv")
    assert set(paired["baseline"].str.partition("__")[0]) == {"SAMedTrainer"}


def test_a_study_at_two_places_that_is_ended_twice_equals_the_whole_one(
    whole: tuple[Path, Path], tmp_path: Path
) -> None:
    root = make_dataset(tmp_path)
    file = table(tmp_path / "small.toml")
    kill(root, file, signal.SIGTERM, 3.0, "-n", "2")
    kill(root, file, signal.SIGKILL, 4.0, "-n", "2")
    assert study(root, file, "-n", "2") == 0
    assert same_results(whole[0] / "results", root / "results") == 4


@pytest.mark.slow
def test_twelve_cells_killed_ten_times_equal_the_whole_study(tmp_path: Path) -> None:
    roots = [make_dataset(tmp_path / name) for name in ("whole", "parts")]
    files = [table(root / "twelve.toml", seeds=(0, 1, 2), folds=(0, 1)) for root in roots]
    assert study(roots[0], files[0]) == 0
    draw = random.Random(0)
    for number in range(10):
        kill(roots[1], files[1], (signal.SIGKILL, signal.SIGTERM)[number % 2], draw.uniform(1.5, 5.0), "-n", "2")
    assert study(roots[1], files[1], "-n", "2") == 0
    assert same_results(roots[0] / "results", roots[1] / "results") == 12
    assert {record["status"] for record in records(roots[1], files[1]).values()} == {"done"}


def test_what_is_missing_is_said_and_left_out_of_the_comparison(
    whole: tuple[Path, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = whole[0]
    monkeypatch.setattr(Session, "run", lambda self, steps: False)
    more = table(root / "small.toml", seeds=(0, 1, 2))
    state = root / "studies" / "small" / STUDY_FILE
    before = json.loads(state.read_text())
    changed = {**before["steps"], "pixel/s1/fold_0": {**before["steps"]["pixel/s1/fold_0"], "status": "stopped"}}
    state.write_text(json.dumps({**before, "steps": changed}))
    try:
        assert main([str(more), "--root", str(root)], launch) == 75
        said = capsys.readouterr().out
        assert "3 of 6 cells: pixel/s1/fold_0, samed/s2/fold_0, pixel/s2/fold_0" in said
        assert "not compared at 2cases" in said
        assert "samed/s1/fold_0\n" in said
    finally:
        state.write_text(json.dumps(before))
        table(root / "small.toml")


def test_a_dry_run_prints_commands_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_dataset(tmp_path)
    assert main([str(table(tmp_path / "t.toml")), "--root", str(root), "--dry-run"]) == 0
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["samora_train"] * 4
    assert [[word for word in line if word.startswith("--seed")] for line in lines] == [
        [f"--seed={seed}"] for seed in (0, 0, 1, 1)
    ]
    assert all("finetune.epochs=2" in " ".join(line) for line in lines)
    assert not (root / "studies").exists()


@pytest.mark.parametrize(
    ("text", "exit_with", "code"),
    [
        ("no toml", 4, "E-STUDY-18"),
        ("dataset = 'Balls'\nruns = 3", 4, "E-JSON-03"),
        ("dataset = 'Balls'\nfold = 3\n[runs.a]", 4, "E-JSON-03"),
        ("dataset = 'Balls'\n[runs]", 2, "E-STUDY-19"),
        ("dataset = 'Balls'\n[runs.a]\nseed = 3", 2, "E-STUDY-19"),
        ("dataset = 'Balls'\n[options]\ndry-run = true\n[runs.a]", 2, "E-STUDY-19"),
        ("dataset = 'Balls'\n[runs.a]\ntrainer = 'SAMedTrainer'", 2, "E-STUDY-20"),
        ("dataset = 'Balls'\n[runs.a]\ntrainer = 'SAMedTrainer'\nsplit = 'full'\nrecpie = 'none'", 2, "E-STUDY-20"),
        ("dataset = 'Balls'\n[runs.a]\ntrainer = 'SAMTrainer'\nsplit = 'full'", 2, "E-ARG-03"),
        ("dataset = 'Bells'\n[runs.a]\ntrainer = 'SAMedTrainer'\nsplit = 'full'", 4, "E-NAME-02"),
        ("dataset = 'Balls'\nfolds = [7]\n[runs.a]\ntrainer = 'SAMedTrainer'\nsplit = 'full'", 2, "E-FOLD-01"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_begun(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, exit_with: int, code: str
) -> None:
    root = make_dataset(tmp_path)
    (tmp_path / "t.toml").write_text(text)
    assert main([str(tmp_path / "t.toml"), "--root", str(root)], _refuse) == exit_with
    assert capsys.readouterr().err.startswith(code)
    assert not (root / "studies").exists()


@pytest.mark.slow
def test_runs_that_need_the_same_expert_train_it_once(tmp_path: Path) -> None:
    root = make_dataset(tmp_path)
    file, second = table(tmp_path / "shared.toml", seeds=(0,)), '{ "finetune.dice" = 0.7 }'
    run = f'trainer = "SAMoraTrainer"\nrecipe = "scratch"\nlevels = ["pixel"]\nset = {_toml(_SET)}'
    before, _, _ = file.read_text().partition("[runs.samed]")
    other = run.replace("{ ", f"{second[:-2]}, ", 1)
    file.write_text(f"{before}[runs.one]\n{run}\n[runs.two]\n{other}\n")
    assert study(root, file, "-n", "2") == 0
    timings = [json.loads(path.read_text())["stages"]["expert_pixel"] for path in root.rglob("fold_0/timing.json")]
    assert sorted(stage["reused"] for stage in timings) == [False, True]


def _toml(settings: Mapping[str, object]) -> str:
    return "{ " + ", ".join(f'"{name}" = {value}' for name, value in settings.items()) + " }"


def _refuse(*arguments: object) -> NoReturn:
    raise AssertionError("no command may be started")
