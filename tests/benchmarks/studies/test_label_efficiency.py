"""The whole study on balls: two variants, two budgets, two seeds; killed without warning, and gone on with."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import pytest
import torch

from benchmarks.studies.label_efficiency import main
from benchmarks.studies.unseen import require_unseen
from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_file
from samora_pipeline.paths import resolve_roots
from tests.trainers.forked_commands import launch
from tests.trainers.processes import exit_code, forked
from tests.trainers.small_data import INPUT, NAME, make_dataset
from trainers.study.processes import Process, spawn

VARIANTS, BUDGETS, SEEDS = ("samed", "pixel_only"), ("1cases", "2cases"), ("0", "1")
_STAGES = ("expert_pixel", "finetune")
_SHORT = [f"{stage}.{name}={value}" for stage in _STAGES for name, value in (("steps_per_epoch", 1), ("batch", 2))]
_SETTINGS = [*_SHORT, *(f"{stage}.epochs=1" for stage in _STAGES), "finetune.schedule_epochs=none"]
_BUSY = 6


@dataclass(frozen=True)
class Finished:
    """A study that was killed once: its root, the last exit code, and what was there when it was killed."""

    root: Path
    code: int
    killed_at: str
    before: dict[str, str]


def words(root: Path, *more: str) -> list[str]:
    chosen = ["--variants", *VARIANTS, "--budgets", *BUDGETS, "--seeds", *SEEDS]
    short = [word for text in _SETTINGS for word in ("--set", text)]
    return ["--root", str(root), "--dataset", "Balls", "--input-size", str(INPUT), *chosen, *short, *more]


def steps(root: Path) -> dict[str, dict[str, Any]]:
    path = root / "study" / "study.json"
    return json.loads(path.read_text())["steps"] if path.is_file() else {}


def run_folder(root: Path, variant: str, budget: str, seed: str) -> Path:
    trainer = {"samed": "SAMedTrainer", "pixel_only": "SAMoraTrainer"}[variant]
    return root / "results" / NAME / f"{trainer}__{budget}__{variant}-s{seed}" / "fold_0"


def begun(root: Path) -> str | None:
    """The run that is under way once two others are done."""
    records = steps(root)
    done = [name for name, record in records.items() if record["status"] == "done" and "/" in name]
    running = [name for name, record in records.items() if record["status"] == "stopped"]
    return running[0] if len(done) > 2 and running else None


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    root = make_dataset(tmp_path_factory.mktemp("study"))
    process = forked(lambda: main(words(root), launch))
    killed_at = None
    while killed_at is None:
        assert process.is_alive(), (root / "study").glob("*")
        time.sleep(0.02)
        killed_at = begun(root)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    before = {str(path): digest_file(path) for path in root.rglob("checkpoint_final.safetensors")}
    code = _BUSY
    while code == _BUSY:  # the training that outlived the study keeps the others away
        time.sleep(0.2)
        code = exit_code(forked(lambda: main(words(root), launch)))
    yield Finished(root, code, killed_at, before)
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_finishes_after_a_kill(finished: Finished) -> None:
    records = steps(finished.root)
    assert finished.code == 0
    assert {record["status"] for record in records.values()} == {"done"}
    assert len(records) == 1 + len(VARIANTS) * len(BUDGETS) * len(SEEDS)
    assert records[finished.killed_at]["sessions"] == 2
    assert all(record["sessions"] == 1 for name, record in records.items() if name != finished.killed_at)
    assert finished.before
    assert finished.before == {path: digest_file(Path(path)) for path in finished.before}


@pytest.mark.slow
def test_overview_states_the_mean_of_the_seeds(finished: Finished) -> None:
    table = pd.read_csv(finished.root / "study" / "overview.csv")
    assert len(table) == len(VARIANTS) * len(BUDGETS)
    assert set(table["seeds"]) == {2}
    assert set(table["steps"]) == {1}
    row = table[(table["labels"] == "2cases") & table["variant"].str.startswith("SAMed")].iloc[0]
    means = [
        read_json(Summary, run_folder(finished.root, "samed", "2cases", seed) / "summary.json").foreground_mean.Dice
        for seed in SEEDS
    ]
    assert row["scans"] == 2
    assert float(row["Dice"].split()[0]) == pytest.approx(sum(mean or 0.0 for mean in means) / 2, abs=6e-4)


@pytest.mark.slow
def test_writes_curves_and_the_comparison_of_every_budget(finished: Finished) -> None:
    study = finished.root / "study"
    assert (study / "curves.png").read_bytes().startswith(b"\x89PNG")
    for budget in BUDGETS:
        paired = pd.read_csv(study / f"compare_{budget}" / "paired.csv")
        assert paired["baseline"].str.startswith("SAMedTrainer").all()
        assert (study / f"compare_{budget}" / "forest_physical_Dice.png").is_file()
    text = (study / "results.md").read_text()
    assert "PHANTOM" in text
    assert "nnU-Net was not run" in text


@pytest.mark.slow
def test_a_finished_study_repeats_nothing(finished: Finished) -> None:
    before = steps(finished.root)
    started: list[str] = []

    def note(command: Sequence[str], log: Path, lock: int, environment: Mapping[str, str]) -> Process:
        started.append(command[0])
        return spawn(["true"], log, lock, environment)

    assert main(words(finished.root), note) == 0
    assert steps(finished.root) == before
    assert set(started) == {"samora_compare"}


@pytest.mark.slow
def test_other_settings_are_refused(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(finished.root, "--set", "finetune.learning_rate=1e-3"), launch) == 4
    assert "E-STUDY-04" in capsys.readouterr().err


@pytest.mark.slow
def test_learning_from_a_scored_scan_is_found(finished: Finished) -> None:
    roots = resolve_roots(str(finished.root))
    path = finished.root / "preprocessed" / NAME / FINGERPRINT_FILE
    untouched = path.read_text()
    cases = json.loads(untouched)
    for variant, source in (("samed", "case_0"), ("pixel_only", "more_0")):
        fold = run_folder(finished.root, variant, "2cases", "0")
        require_unseen(fold, roots)
        if variant == "samed":
            source = json.loads((fold / "config.json").read_text())["selection"]["cases"][0]
        changed = json.loads(untouched)
        changed["cases"]["case_4"]["voxel_digests"] = cases["cases"][source]["voxel_digests"]
        try:
            path.write_text(json.dumps(changed))
            with pytest.raises(DataError, match=r"E-STUDY-06(.|\n)*is case_4"):
                require_unseen(fold, roots)
        finally:
            path.write_text(untouched)


@pytest.mark.slow
def test_choosing_on_a_scored_scan_is_found(finished: Finished) -> None:
    fold = run_folder(finished.root, "samed", "1cases", "0")
    path = fold / "postprocessing.json"
    before = path.read_text() if path.is_file() else None
    try:
        path.write_text('{"held_out": ["case_5"], "steps": [], "schema_version": 1}')
        with pytest.raises(DataError, match=r"case_5 .post-processing"):
            require_unseen(fold, resolve_roots(str(finished.root)))
    finally:
        path.unlink() if before is None else path.write_text(before)


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--variants", "samedd"], 2, "E-STUDY-01"),
        (["--variants", "nnunet_2d"], 5, "E-STUDY-10"),
        (["--dataset", "Nothing"], 2, "E-STUDY-02"),
        (["--dataset", "LA"], 5, "E-STUDY-07"),
        (
            ["--variants", "samed", "--set", "finetune.no_such=1"],
            2,
            'the variant "samed" cannot be run by this version',
        ),
    ],
)
def test_what_cannot_be_run_is_refused_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], code: int, said: str
) -> None:
    budgets = [] if "--dataset" in more else ["--dataset", "Balls", "--budgets", "2cases"]
    assert main(["--root", str(tmp_path), *budgets, *more], _refuse) == code
    assert said in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def _refuse(*arguments: object) -> NoReturn:
    raise AssertionError("no command may be started")
