"""Leaks as a user meets them: raw scans under other names, planned, then trained on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import nibabel
import numpy as np
import pytest

from planners.cli import main as plan_and_preprocess
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.pool import read_pool
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.contracts.scores import Summary
from tests.raw_data import make_raw_dataset
from tests.trainers.runs import artefact_folders, command, fold_folder, session
from tests.trainers.small_data import NAME, SCORED, make_dataset
from trainers import cli

MORE = "Dataset091_More"
LEAKS = [f"{MORE}/{case}" for case in SCORED]


@pytest.fixture(scope="module")
def raw_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with a published test case, and another one that has the same scan, turned and as floats, as x_9."""
    root = tmp_path_factory.mktemp("raw")
    split = {"train": ["case_00", "case_01", "case_02"], "test": ["case_03"]}
    first = make_raw_dataset(root / "raw/Dataset007_Boxes", cases=4, samora={"published_split": split})
    other = make_raw_dataset(root / "raw/Dataset008_Others", cases=0, unlabelled=("y_1", "y_2"))
    turned = nibabel.load(first / "imagesTr/case_03_0000.nii.gz").as_reoriented(np.array([[2, 1], [0, -1], [1, 1]]))
    turned.set_data_dtype(np.float64)
    nibabel.save(turned, other / "imagesUn/x_9_0000.nii.gz")
    assert plan_and_preprocess(["--root", str(root), "-d", "7", "8", "--set", "input_size=64"]) == 0
    return root


def _words(root: Path, *words: str) -> list[str]:
    return ["7", "SAMoraTrainer", "2cases", "--root", str(root), *command(root)[5:11], *words]


def test_a_test_scan_under_another_name_in_another_dataset_stops_the_run(
    raw_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(_words(raw_root, "--unlabeled", "Others")) == 4
    told = capsys.readouterr().err
    assert told.startswith("E-LEAK-03 ")
    assert "found: Dataset008_Others/x_9: same voxels as case_03" in told
    assert "--allow-leak Dataset008_Others/x_9" in told
    assert not (raw_root / "results").exists()


def test_a_dry_run_shows_pool_and_leaks_and_ends_as_the_run_would(
    raw_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(_words(raw_root, "--unlabeled", "Others", "--dry-run")) == 4
    told = capsys.readouterr()
    for line in (
        "pool      Dataset007_Boxes: 3 cases, their labels unused, 18 slices",
        "          left out: 1 scored",
        "pool      Dataset008_Others: 3 cases, their labels unused, 18 slices",
        "leak      Dataset008_Others/x_9: same voxels as case_03 (pool, not decided)",
    ):
        assert line in told.out.splitlines()
    assert told.err.startswith("E-LEAK-03")
    assert cli.main(_words(raw_root, "--unlabeled", "Others", "--dry-run", "--exclude-leaks")) == 0
    told = capsys.readouterr()
    for line in (
        "pool      Dataset008_Others: 2 cases, their labels unused, 12 slices",
        "          left out: 1 a leak",
        "leak      Dataset008_Others/x_9: same voxels as case_03 (pool, excluded)",
    ):
        assert line in told.out.splitlines()
    assert not (raw_root / "results").exists()


@pytest.mark.slow
def test_every_score_of_a_leaky_run_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = make_dataset(make_dataset(tmp_path), folder_name=MORE)
    words = command(root, "--name", "a", "--unlabeled", "91", "--set", "pool.slices=20")
    assert session(words) == 4
    assert not (root / "results").exists()
    allowed = [*words, "--allow-leak", *LEAKS]
    # Killed in the first stage: the list of slices is there already and is taken up again.
    assert session(allowed, at=("bootstrap", 2, signal.SIGKILL)) == -signal.SIGKILL
    (file,) = (root / "results" / NAME / "pretraining" / "pools").iterdir()
    before = file.read_bytes()
    assert session([*allowed, "-c"]) == 0
    assert file.read_bytes() == before
    folder = fold_folder(root, "SAMoraTrainer__2cases__a")
    config = read_json(RunConfig, folder / "config.json")
    assert config.allowed_leaks == tuple(LEAKS)
    assert config.pool.key == file.stem
    manifest = read_pool(file)
    assert manifest.slices == 20
    assert set(manifest.datasets[MORE].cases) == set(SCORED)
    for stage in artefact_folders(root).values():
        inputs = json.loads((stage / "inputs.json").read_text())
        assert inputs["pool"] == file.stem
    assert "LEAKY" in read_json(Summary, folder / "summary.json").warnings
    assert "LEAKY" in json.loads((folder / "validation" / "run.json").read_text())["warnings"]
    assert "*** PHANTOM | BOOTSTRAPPED BASE | LEAKY ***" in capfd.readouterr().out
