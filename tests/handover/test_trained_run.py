"""A run as samora_train leaves it, handed over and used elsewhere."""

from __future__ import annotations

import zipfile
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pytest

from samora_pipeline.handover.cli import main as export_main
from samora_pipeline.handover.import_cli import main as import_main
from samora_pipeline.imaging.files import read_label_names
from samora_pipeline.inference.cli import main as predict_main
from tests.trainers.runs import command, fold_folder, session
from tests.trainers.small_data import NAME, TRAIN, make_dataset

RUN = "SAMedTrainer__2cases__mine"


def test_a_trained_run_predicts_the_same_where_it_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = make_dataset(tmp_path / "root")
    assert session(command(root, "--name", "mine", trainer="SAMedTrainer")) == 0
    assert export_main([str(fold_folder(root, RUN).parent), "--root", str(root), "-o", "model.zip"]) == 0
    with zipfile.ZipFile("model.zip") as archive:
        texts = [archive.read(entry) for entry in archive.infolist() if not entry.filename.endswith("safetensors")]
        weights = [entry.filename for entry in archive.infolist() if entry.filename.endswith("safetensors")]
    assert sorted(weights) == ["base.safetensors", "fold_0/checkpoint_final.safetensors"]
    assert not any(case.encode() in text for case in (*TRAIN, "more_0", str(tmp_path)) for text in texts)
    model_card = next(text for text in texts if text.startswith(b"---")).decode()
    assert "**PHANTOM**" in model_card
    assert ["ball", "2"] in [line.split()[:2] for line in model_card.splitlines()]
    assert import_main(["model.zip", "--root", "elsewhere"]) == 0
    scans = root / "raw" / NAME / "imagesTr"
    for place, out in ((str(root), "here"), ("elsewhere", "there")):
        words = ["--root", place, "-i", str(scans), "-o", out, "-m", f"{NAME}/{RUN}", "--device", "cpu"]
        assert predict_main([*words, "--save-probabilities"]) == 0
    for case in TRAIN:
        # Four steps of training segment nothing, so the probabilities are what tells two networks apart.
        mine, theirs = (blosc2.open(f"{out}/{case}_probabilities.b2nd")[:] for out in ("here", "there"))
        assert len(np.unique(mine)) > 100
        assert np.array_equal(mine, theirs)
        here, there = (nibabel.load(f"{out}/{case}.nii.gz") for out in ("here", "there"))
        assert np.array_equal(np.asarray(here.dataobj), np.asarray(there.dataobj))
        assert [entry.name for entry in read_label_names(Path(f"there/{case}.nii.gz"))] == ["ball", "hole"]
