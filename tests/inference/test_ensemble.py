"""Several folds as one model: what samora_predict writes for all of them, and for some."""

from __future__ import annotations

import math
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.inference.cli import main
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.inference.record import PredictionRecord
from tests.fake_run import write_fake_run, write_image


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAW", "PREPROCESSED", "RESULTS", "WEIGHTS"):
        monkeypatch.delenv(f"SAMORA_{name}", raising=False)
    monkeypatch.setenv("SAMORA_ROOT", str(tmp_path))
    write_fake_run(tmp_path / "results", folds=("0", "1", "2"), effect=0.1)
    write_image(tmp_path / "scans" / "a.nii.gz")
    return tmp_path


def predict(root: Path, out: str, *words: str) -> npt.NDArray[np.float64]:
    """The probabilities [K,X,Y,Z] that the command writes."""
    files = ["--save-probabilities", "--save-uncertainty", "--fp32", "--device", "cpu"]
    assert main(["-i", str(root / "scans"), "-o", str(root / out), *files, *words]) == 0
    stored: npt.NDArray[np.float64] = blosc2.open(str(root / out / "a_probabilities.b2nd"))[:].astype(np.float64)
    return stored


def test_all_folds_are_averaged_unless_some_are_named(root: Path) -> None:
    alone = [predict(root, f"out{fold}", "-f", fold) for fold in "012"]
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    assert np.abs(predict(root, "all") - np.mean(alone, axis=0)).max() < 1.5e-3  # float16 on disk
    assert np.abs(predict(root, "some", "-f", "2", "0") - np.mean([alone[0], alone[2]], axis=0)).max() < 1.5e-3
    assert read_json(PredictionRecord, root / "all" / "run.json").model.folds == ("0", "1", "2")
    assert set(read_json(PredictionRecord, root / "some" / "run.json").model.checkpoints) == {"0", "2"}


def test_labels_and_uncertainty_are_those_of_the_average(root: Path) -> None:
    mean = predict(root, "all")
    labels = np.asarray(nibabel.load(root / "all" / "a.nii.gz").dataobj)
    chosen = np.take_along_axis(mean, labels[None].astype(np.intp), axis=0)[0]
    assert (chosen >= mean.max(0) - 1e-3).all()
    percent = np.asarray(nibabel.load(root / "all" / "a_uncertainty.nii.gz").dataobj)
    entropy = -(mean * np.log(np.maximum(mean, 1e-12))).sum(0) / math.log(len(mean))
    assert np.abs(percent - 100 * entropy).max() < 0.8


def test_python_gives_what_the_command_gives(root: Path) -> None:
    predict(root, "some", "-f", "0", "1", "--tta")
    image = nibabel.as_closest_canonical(nibabel.load(root / "scans" / "a.nii.gz"))
    run = "Dataset090_Phantom/SAMoraTrainer__10pct__default"
    predictor = Predictor.load(run, folds=("0", "1"), tta=True, device="cpu", precision="fp32")
    labels = predictor(np.asarray(image.dataobj), image.header.get_zooms(), axes="RAS")
    written = nibabel.as_closest_canonical(nibabel.load(root / "some" / "a.nii.gz"))
    assert np.array_equal(labels, np.asarray(written.dataobj))
