"""KiTS19: slices along the first axis, as the affine says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.datasets.kits19 import KiTS19
from planners.cli import main as plan
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import labels_to_slices, to_slices
from tests.dataset_conversion.public_sources import make_kits
from tests.dataset_conversion.sources import labels, scan

CONVERTER = KiTS19()


def test_files_are_kept_and_cases_without_labels_are_test_cases(tmp_path: Path) -> None:
    source = make_kits(tmp_path / "in")
    report = CONVERTER.convert(source, tmp_path / "out", CONVERTER.options())
    assert (report.training, report.test, report.skipped, report.notes) == (2, 1, (), ())
    raw = read_dataset(tmp_path / "out")
    assert raw.description.labels == {"background": 0, "kidney": 1, "tumour": 2}
    assert list(raw.test()) == ["case_00002"]
    case = raw.training()["case_00001"]
    assert case.label is not None
    assert case.channels[0].read_bytes() == (source / "data/case_00001/imaging.nii.gz").read_bytes()
    assert case.label.read_bytes() == (source / "data/case_00001/segmentation.nii.gz").read_bytes()


def test_axial_slices_are_those_along_the_first_axis(tmp_path: Path) -> None:
    root = tmp_path / "root"
    target = root / "raw" / "Dataset006_KiTS19"
    CONVERTER.convert(make_kits(tmp_path / "in"), target, CONVERTER.options())
    case = read_dataset(target).training()["case_00001"]
    assert case.label is not None
    volume = read_volume(case.channels[0])
    assert volume.grid.axes == "IPL"
    slices, geometry = to_slices((volume,), "axial")
    # Stored upwards; rows to the back and columns to the left are the file's own order.
    np.testing.assert_array_equal(slices[:, 0], scan(1, (6, 12, 10))[::-1])
    np.testing.assert_array_equal(labels_to_slices(read_volume(case.label), geometry), labels(1, 2, (6, 12, 10))[::-1])
    np.testing.assert_allclose(geometry.spacing, (3.0, 0.9, 0.8), rtol=1e-6)
    assert plan(["-d", "6", "--verify-only", "--root", str(root)]) == 0
    assert plan(["-d", "6", "--root", str(root)]) == 0
    plans = read_json(Plans, root / "preprocessed" / target.name / "plans.json")
    assert plans.slice_axis.value == "axial"
    assert "3 mm across axial" in plans.slice_axis.why


@pytest.mark.parametrize("inner", ["data", ""])
def test_the_repository_or_its_data_folder(inner: str, tmp_path: Path) -> None:
    source = make_kits(tmp_path / "in") / inner
    assert CONVERTER.survey(source, CONVERTER.options()).count("Tr") == 2


def test_a_clone_without_scans_is_told_what_is_missing(tmp_path: Path) -> None:
    source = make_kits(tmp_path / "in")
    (source / "data" / "case_00001" / "imaging.nii.gz").unlink()
    survey = CONVERTER.survey(source, CONVERTER.options())
    assert survey.count("Tr") == 1
    assert "case_00001" in survey.notes[0]
    for path in source.glob("data/*/imaging.nii.gz"):
        path.unlink()
    with pytest.raises(DataError) as caught:
        CONVERTER.survey(source, CONVERTER.options())
    assert caught.value.code == "E-SRC-01"
    assert "starter_code.get_imaging" in caught.value.found
    assert "case_NNNNN/imaging.nii.gz" in caught.value.expected
