from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from samora_pipeline.contracts.failures import Failures
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.dicom import read_series
from samora_pipeline.inference.case import find_cases
from samora_pipeline.inference.cli import main
from samora_pipeline.inference.predictor import Predictor
from tests.fake_run import write_fake_run
from tests.imaging.dicom_files import write_series

CT = ("CT",)


def test_a_folder_of_one_series_is_one_case(tmp_path: Path) -> None:
    files = write_series(tmp_path / "anna smith")
    (tmp_path / "anna smith" / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "anna smith" / "notes.txt").write_text("nothing")
    (case,) = find_cases(tmp_path / "anna smith", CT)
    assert (case.name, case.ending, case.dicom) == ("anna_smith", ".nii.gz", True)
    assert sorted(case.channels) == sorted(files)


def test_a_file_stands_for_its_series(tmp_path: Path) -> None:
    files = write_series(tmp_path / "study")
    for path in write_series(tmp_path / "other", **{"0020|000e": "1.2.3.9", "0020|0011": "7"}):
        shutil.copy(path, tmp_path / "study" / f"b{path.name}")
    (case,) = find_cases(files[2], CT)
    assert sorted(case.channels) == sorted(files)
    assert case.name == "study_003"


def test_several_series_carry_their_number(tmp_path: Path) -> None:
    write_series(tmp_path / "study")
    for path in write_series(tmp_path / "other", **{"0020|000e": "1.2.3.9", "0020|0011": "7"}):
        shutil.move(path, tmp_path / "study" / f"b{path.name}")
    assert [case.name for case in find_cases(tmp_path / "study", CT)] == ["study_003", "study_007"]


def test_folders_of_series_are_cases_beside_images(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_series(tmp_path / name)
    assert [case.name for case in find_cases(tmp_path, CT)] == ["a", "b"]
    (tmp_path / "scan.nii.gz").touch()
    found = [(case.name, case.dicom) for case in find_cases(tmp_path, CT)]
    assert found == [("a", True), ("b", True), ("scan", False)]


def test_a_model_with_two_channels_takes_no_series(tmp_path: Path) -> None:
    write_series(tmp_path / "a")
    with pytest.raises(DataError, match="E-CHAN-07"):
        find_cases(tmp_path, ("T2", "ADC"))


def test_two_names_that_become_one_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "a b")
    write_series(tmp_path / "a_b")
    with pytest.raises(DataError, match="E-INPUT-02"):
        find_cases(tmp_path, CT)


def test_series_are_predicted_on_their_grid_and_a_broken_one_fails_alone(tmp_path: Path) -> None:
    run = write_fake_run(tmp_path / "root" / "results")
    files = write_series(tmp_path / "scans" / "whole")
    write_series(tmp_path / "scans" / "gap")[2].unlink()
    write_series(tmp_path / "scans" / "cut")
    (tmp_path / "scans" / "cut" / "im7.dcm").write_bytes(files[2].read_bytes()[:200])
    out = tmp_path / "out"
    words = ["--root", str(tmp_path / "root"), "-i", str(tmp_path / "scans"), "-o", str(out)]
    assert main(words) == 3
    assert {name: failure.code for name, failure in read_json(Failures, out / "failures.json").cases.items()} == {
        "cut": "E-IMG-02",
        "gap": "E-SER-01",
    }
    volume = read_series(files)
    image = nibabel.load(out / "whole.nii.gz")
    assert np.allclose(image.affine, volume.grid.matrix, atol=1e-4)
    expected = Predictor.load(run, weights_folder=tmp_path).predict_volume((volume,))
    assert np.array_equal(np.asarray(image.dataobj), expected)
