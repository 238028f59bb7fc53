"""The simulated annotator: what it reveals, what it runs, and a whole design on boxes in noise."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from benchmarks.studies.annotator import RESULTS_FILE, Study, commands, main, prepare, reveal
from planners.cli import main as plan
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.labelling import label_cli, suggest_cli
from samora_pipeline.labelling.scans import read_round
from tests.raw_data import make_raw_dataset

NAME = "Dataset101_Boxes"
TRAIN, TEST = ["case_00", "case_01", "case_02", "case_03"], ["case_04", "case_05"]
SHORT = "UNetTrainer --device cpu --set finetune.epochs=1 --set finetune.steps_per_epoch=1"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    split = {"published_split": {"train": TRAIN, "test": TEST}}
    truth = make_raw_dataset(tmp_path / "full" / "raw" / NAME, shape=(32, 32, 10), samora=split)
    return Study(truth, tmp_path / "study", (6, 4), ("UNetTrainer",))


def test_labels_of_training_scans_are_hidden_and_revealed_slice_by_slice(study: Study) -> None:
    root = study.root("rounds", 0)
    raw = prepare(study, root)
    assert sorted(path.name for path in (raw / "labelsTr").iterdir()) == [f"{case}.nii.gz" for case in TEST]
    place = ["--root", str(root)]
    assert plan(["-d", "101", "-np", "1", *place]) == 0
    assert suggest_cli.main(["101", "--slices", "6", "-o", str(root / "round_0"), *place]) == 0
    assert reveal(root / "round_0", read_dataset(study.truth).training()) == 6
    assert label_cli.main(["add", str(root / "round_0"), "--accept-unchanged", *place]) == 0
    record = read_round(root / "round_0")
    assert set(record.cases) == set(TRAIN)
    for case in record.cases:
        found, true = (
            np.asarray(nibabel.load(folder / "labelsTr" / f"{case}.nii.gz").dataobj) for folder in (raw, study.truth)
        )
        asked = list(record.asked(case))
        assert np.array_equal(found[:, :, asked], true[:, :, asked])
        assert (np.delete(found, asked, axis=2) == record.ignore).all()


def test_designs_differ_in_what_they_ask_for_and_start_from(study: Study) -> None:
    rounds = dict(commands(study, "rounds", 0))
    assert list(rounds) == ["round_0", "round_1"]
    suggests = [next(words for words in run if words[:1] == ["samora_suggest"]) for run in rounds.values()]
    assert ["-m" in words for words in suggests] == [False, True]
    assert ["--start-from" in run[-1] for run in rounds.values()] == [False, True]
    (even,) = dict(commands(study, "even", 0)).values()
    assert "10" in next(words for words in even if words[:1] == ["samora_suggest"])
    (scans,) = dict(commands(study, "scans", 0)).values()
    assert not any(words[:1] == ["samora_suggest"] for words in scans)


@pytest.mark.slow
def test_a_study_runs_to_its_end_and_goes_on_where_it_was(study: Study) -> None:
    words = ["--root", str(study.truth.parents[1]), "--work", str(study.work), "-d", "101", "--slices", "6", "4"]
    assert main([*words, "--train", SHORT]) == 0
    lines = [json.loads(line) for line in (study.work / RESULTS_FILE).read_text().splitlines()]
    assert [(line["design"], line["run"], line["slices"]) for line in lines] == [
        ("scans", "round_0", 10),
        ("even", "round_0", 10),
        ("rounds", "round_0", 6),
        ("rounds", "round_1", 10),
    ]
    assert all(0 <= line["dice"] <= 1 for line in lines)
    assert main([*words, "--train", SHORT]) == 0
    assert len((study.work / RESULTS_FILE).read_text().splitlines()) == 4
