"""Which files belong to one case."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset_conversion.survey import list_files, listed_path, stem
from samora_pipeline.errors import DataError

ENDINGS = (".nii", ".nii.gz")


def test_the_longest_ending_goes() -> None:
    assert stem(Path("x/a.b.nii.gz"), ENDINGS) == "a.b"
    assert stem(Path("x/A.NII.GZ"), ENDINGS) == "A"


def test_hidden_files_and_folders_are_no_scans(tmp_path: Path) -> None:
    for name in ("._a.nii.gz", "b.nii.gz", "a.nii", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()
    assert [path.name for path in list_files(tmp_path, ENDINGS)] == ["a.nii", "b.nii.gz"]
    assert list_files(tmp_path / "absent", ENDINGS) == []


def test_listed_names_stay_below_their_folder(tmp_path: Path) -> None:
    assert listed_path(tmp_path, "./imagesTr/a.nii.gz") == tmp_path / "imagesTr" / "a.nii.gz"
    for name in ("/a.nii.gz", "imagesTr/../../a.nii.gz", "a\tb"):
        with pytest.raises(DataError) as caught:
            listed_path(tmp_path, name)
        assert caught.value.code == "E-PATH-01"
