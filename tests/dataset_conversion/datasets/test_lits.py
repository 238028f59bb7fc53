"""LiTS: numbered files, wherever the parts of the download were unpacked."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest

from dataset_conversion.datasets.lits import LiTS
from planners.cli import main as plan
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from tests.dataset_conversion.public_sources import make_lits
from tests.dataset_conversion.sources import AFFINE, labels, scan

CONVERTER = LiTS()


def test_batches_are_joined_and_volumes_compressed(tmp_path: Path) -> None:
    target = tmp_path / "root" / "raw" / "Dataset005_LiTS"
    report = CONVERTER.convert(make_lits(tmp_path / "in"), target, CONVERTER.options())
    assert (report.training, report.test, report.skipped, report.notes) == (3, 1, (), ())
    raw = read_dataset(target)
    assert sorted(raw.training()) == ["volume-0", "volume-10", "volume-2"]
    assert list(raw.test()) == ["test-volume-0"]
    case = raw.training()["volume-10"]
    assert case.label is not None
    np.testing.assert_array_equal(read_volume(case.channels[0]).array, scan(10))
    np.testing.assert_array_equal(read_volume(case.label).array, labels(10))
    np.testing.assert_allclose(nibabel.load(case.channels[0]).affine, AFFINE)
    assert raw.description.labels == {"background": 0, "liver": 1, "tumour": 2}
    assert raw.ours.published_split is None
    assert plan(["-d", str(target), "--verify-only", "--root", str(tmp_path / "root")]) == 0


def test_cases_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    survey = CONVERTER.survey(make_lits(tmp_path / "in"), CONVERTER.options())
    assert [case.name for case in survey.cases] == ["volume-0", "volume-2", "volume-10", "test-volume-0"]


def test_files_without_a_partner_are_named(tmp_path: Path) -> None:
    source = make_lits(tmp_path / "in")
    (source / "Training Batch 2" / "segmentation-10.nii").unlink()
    (source / "Training Batch 1" / "volume-2.nii").unlink()
    survey = CONVERTER.survey(source, CONVERTER.options())
    assert survey.count("Tr") == 1
    assert "volume-10.nii" in survey.notes[0]
    assert "segmentation-2.nii" in survey.notes[1]


def test_a_scan_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    source = make_lits(tmp_path / "in")
    shutil.copy(source / "Training Batch 1" / "volume-0.nii", source / "volume-0.nii")
    with pytest.raises(DataError) as caught:
        CONVERTER.survey(source, CONVERTER.options())
    assert caught.value.code == "E-SRC-13"


def test_test_scans_alone_are_no_source(tmp_path: Path) -> None:
    source = make_lits(tmp_path / "in")
    for batch in (1, 2):
        shutil.rmtree(source / f"Training Batch {batch}")
    with pytest.raises(DataError) as caught:
        CONVERTER.survey(source, CONVERTER.options())
    assert caught.value.code == "E-SRC-01"
    assert "Training Batch 1/volume-N.nii" in caught.value.expected


def test_copies_that_lost_their_geometry_are_named(tmp_path: Path) -> None:
    source = make_lits(tmp_path / "in")
    (volume,) = source.rglob("volume-2.nii*")
    (label,) = source.rglob("segmentation-2.nii*")
    for path, array in ((volume, scan(2)), (label, labels(2))):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), path)
    target = tmp_path / "raw" / "Dataset005_LiTS"
    report = CONVERTER.convert(source, target, CONVERTER.options())
    assert "scans state voxels of 1 x 1 x 1 mm" in report.notes[0]
    assert "(2)" in report.notes[0]
    assert not read_dataset(target).ours.spacing_known
