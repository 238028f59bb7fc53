"""BTCV: every label as it is, the split of Synapse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.datasets.btcv import BTCV
from dataset_conversion.datasets.synapse import Synapse
from planners.cli import main as plan
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from tests.dataset_conversion.public_sources import make_btcv, organs

CONVERTER = BTCV()


def test_scans_and_label_maps_arrive_byte_for_byte(tmp_path: Path) -> None:
    source, target = make_btcv(tmp_path / "in", nesting="RawData/Training"), tmp_path / "root" / "raw" / "Dataset007_B"
    report = CONVERTER.convert(source, target, CONVERTER.options())
    assert (report.training, report.test, report.skipped) == (2, 1, ())
    assert report.notes[0].startswith("16 of the 18 cases of the published training set are missing")
    raw = read_dataset(target)
    case = raw.training()["case0006"]
    assert case.label is not None
    assert case.label.read_bytes() == (source / "RawData/Training/label/label0006.nii.gz").read_bytes()
    assert case.channels[0].read_bytes() == (source / "RawData/Training/img/img0006.nii.gz").read_bytes()
    np.testing.assert_array_equal(read_volume(case.label).array, organs(6))
    assert len(raw.description.labels) == 14
    assert raw.description.labels["left_adrenal_gland"] == 13
    assert plan(["-d", str(target), "--verify-only", "--root", str(tmp_path / "root")]) == 0


def test_it_shares_the_split_of_synapse() -> None:
    published = Synapse().published()
    assert CONVERTER.published().split == published.split
    assert CONVERTER.published().budgets == {}


def test_a_label_that_is_not_one_of_thirteen_sets_the_case_aside(tmp_path: Path) -> None:
    source = make_btcv(tmp_path / "in")
    from tests.dataset_conversion.sources import write_nifti

    write_nifti(source / "label" / "label0006.nii.gz", np.full((16, 12, 8), 14, np.uint8))
    report = CONVERTER.convert(source, tmp_path / "out", CONVERTER.options())
    assert [(fault.case, fault.code) for fault in report.skipped] == [("case0006", "E-LABEL-09")]


def test_scans_without_labels_are_no_source(tmp_path: Path) -> None:
    source = make_btcv(tmp_path / "in", nesting="RawData/Testing")
    with pytest.raises(DataError) as caught:
        CONVERTER.survey(source, CONVERTER.options())
    assert caught.value.code == "E-SRC-01"
    assert "RawData/Training" in caught.value.expected
