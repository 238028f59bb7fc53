"""AMOS22: the modality follows from the id, the validation part is the test set."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataset_conversion.cli import main as convert
from dataset_conversion.datasets.amos22 import AMOS22
from planners.cli import main as plan
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.errors import DataError
from tests.dataset_conversion.public_sources import make_amos

CONVERTER = AMOS22()


@pytest.mark.parametrize("nesting", ["", "amos22", "amos"])
def test_ct_is_what_has_an_id_below_500(nesting: str, tmp_path: Path) -> None:
    make_amos(tmp_path / "in" / nesting)
    report = CONVERTER.convert(tmp_path / "in", tmp_path / "out", CONVERTER.options())
    raw = read_dataset(tmp_path / "out")
    assert list(raw.training()) == ["amos_0001", "amos_0499"]
    assert list(raw.test()) == ["amos_0002", "amos_0008"]
    assert raw.test()["amos_0002"].label is None
    assert raw.description.channel_names == {"0": "CT"}
    assert len(raw.description.labels) == 16
    assert raw.description.labels["prostate_or_uterus"] == 15
    assert raw.ours.published_split is not None
    assert raw.ours.published_split.train == ("amos_0001", "amos_0499")
    assert raw.ours.published_split.test == ("amos_0008",)
    assert report.notes == ("3 scans are MR by their id and were left out: --modality MR converts them",)


def test_mr_is_a_dataset_of_its_own(tmp_path: Path) -> None:
    source, root = make_amos(tmp_path / "in"), tmp_path / "root"
    assert convert(["-d", "AMOS22", "-i", str(source), "--root", str(root)]) == 0
    assert convert(["-d", "AMOS22", "-i", str(source), "--root", str(root), "--modality", "MR"]) == 0
    assert sorted(path.name for path in (root / "raw").iterdir()) == ["Dataset004_AMOS22", "Dataset100_AMOS22MR"]
    raw = read_dataset(root / "raw" / "Dataset100_AMOS22MR")
    assert (list(raw.training()), list(raw.test())) == (["amos_0500"], ["amos_0507", "amos_0600"])
    assert raw.description.channel_names == {"0": "MRI"}
    assert plan(["-d", "4", "100", "--verify-only", "--root", str(root)]) == 0


def test_training_scans_without_labels_become_unlabelled(tmp_path: Path) -> None:
    source = make_amos(tmp_path / "in")
    (source / "labelsTr" / "amos_0499.nii.gz").unlink()
    (source / "labelsVa" / "amos_0008.nii.gz").unlink()
    survey = CONVERTER.survey(source, CONVERTER.options())
    assert {case.name: case.part for case in survey.cases}["amos_0499"] == "Un"
    assert survey.ours.published_split is None
    assert "amos_0499" in survey.notes[1]
    assert "amos_0008" in survey.notes[2]


def test_a_copy_without_the_modality_is_refused(tmp_path: Path) -> None:
    source = make_amos(tmp_path / "in", {"Tr": (500, 501)})
    with pytest.raises(DataError) as caught:
        CONVERTER.survey(source, CONVERTER.options())
    assert caught.value.code == "E-SRC-01"
    assert "modality CT" in caught.value.found
    assert "imagesTr/amos_NNNN.nii.gz" in caught.value.expected
