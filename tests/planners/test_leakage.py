"""Copies and shared patients that planning finds in raw folders."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from planners.cli import main
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.splits import SPLITS_FILE, Splits
from tests.raw_data import make_raw_dataset

FOLDER = "Dataset007_Boxes"


def _turned_copy(raw: Path, source: str, target: str, images: str = "imagesTr") -> None:
    """The same scan under another name: other orientation, other number type, other compression."""
    pairs: list[tuple[str, str, type]] = [
        (f"imagesTr/{source}_0000.nii.gz", f"{images}/{target}_0000.nii.gz", np.float64)
    ]
    if images == "imagesTr":
        pairs.append((f"labelsTr/{source}.nii.gz", f"labelsTr/{target}.nii.gz", np.uint8))
    for old, new, kind in pairs:
        turned = nibabel.load(raw / old).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
        turned.set_data_dtype(kind)
        (raw / new).parent.mkdir(exist_ok=True)
        nibabel.save(turned, raw / new)
    assert (raw / pairs[0][0]).read_bytes() != (raw / pairs[0][1]).read_bytes()


def _plan(root: Path) -> Splits:
    assert main(["--root", str(root)]) == 0
    return read_json(Splits, root / "preprocessed" / FOLDER / SPLITS_FILE)


def test_copies_stay_on_one_side_of_every_fold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = make_raw_dataset(tmp_path / "raw" / FOLDER, cases=5)
    _turned_copy(raw, "case_01", "another")
    splits = _plan(tmp_path)
    assert "the same scan under 2 names: another (train), case_01 (train)" in capsys.readouterr().out
    for number in "01234":
        fold = splits.folds[number]
        assert len({"another", "case_01"} & set(fold.train)) in (0, 2)
    assert sorted(case for number in "01234" for case in splits.folds[number].scored) == [
        "another",
        *(f"case_{i:02d}" for i in range(5)),
    ]


def test_a_published_split_that_shares_a_patient_and_a_scan_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published = {"train": ["case_00", "case_01", "case_02"], "test": ["case_03", "twin"]}
    samora = {"published_split": published, "patients": {"case_02": "p", "case_03": "p"}}
    raw = make_raw_dataset(tmp_path / "raw" / FOLDER, cases=4, samora=samora)
    _turned_copy(raw, "case_01", "twin")
    _plan(tmp_path)
    told = capsys.readouterr().out
    assert (
        "fold official trains on 2 cases that it must not know "
        "(case_01: same voxels as twin; case_02: same patient as case_03)" in told
    )


def test_copies_of_test_scans_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = make_raw_dataset(tmp_path / "raw" / FOLDER, cases=3)
    _turned_copy(raw, "case_02", "secret", images="imagesTs")
    _plan(tmp_path)
    assert "case_02: same voxels as secret" in capsys.readouterr().out


def test_a_clean_dataset_has_no_word_about_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_raw_dataset(tmp_path / "raw" / FOLDER, cases=4, test=1)
    _plan(tmp_path)
    told = capsys.readouterr().out
    assert "same scan" not in told
    assert "must not know" not in told
