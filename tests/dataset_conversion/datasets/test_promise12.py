"""PROMISE12: names, lists, headers without spacing, and the real scans against the published slice ranges."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.datasets.promise12 import PROMISE12
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from tests.dataset_conversion.scan_sources import PROSTATES, grey, make_promise12, mask, write_itk

DATA = Path(os.environ.get("SAMORA_TEST_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
CONVERTER = PROMISE12()
# First and last slice with prostate, from 0: the slices that H-SAM trains on (7.5 % of the scans).
PUBLISHED_SLICES = {"Case29": (2, 17), "Case14": (2, 17), "Case05": (7, 32)}


def test_names_parts_and_lists(tmp_path: Path) -> None:
    target = tmp_path / "raw" / "Dataset003_PROMISE12"
    report = CONVERTER.convert(make_promise12(tmp_path / "a"), target, CONVERTER.options())
    raw = read_dataset(target)
    assert list(raw.training()) == ["Case00", "Case05", "Case14"]
    assert list(raw.test()) == ["Case16"]
    # The challenge numbers its test scans from 00 as well.
    assert list(raw.unlabelled()) == ["TestCase05"]
    assert raw.ours.spacing_known
    assert raw.ours.published_split is not None
    assert raw.ours.published_split.test == ("Case16",)
    assert raw.ours.budgets["7.5pct"].cases == ("Case14", "Case05")
    notes = "\n".join(report.notes)
    assert "7.5pct are missing: Case29" in notes
    assert "37 of the 40 cases" in notes
    for seed, name in enumerate(PROSTATES):
        case = {**raw.training(), **raw.test()}[name]
        assert case.label is not None
        label = read_volume(case.label)
        np.testing.assert_array_equal(label.array, mask(seed))
        np.testing.assert_array_equal(read_volume(case.channels[0]).array, grey(seed))
        assert label.grid.spacing == pytest.approx((0.6, 0.6, 3.6), rel=1e-6)


def test_the_complete_lists_are_those_of_the_literature() -> None:
    published = CONVERTER.published()
    assert published.split is not None
    assert (len(published.split.train), len(published.split.test)) == (40, 10)
    assert sorted({*published.split.train, *published.split.test}) == [f"Case{number:02d}" for number in range(50)]
    assert published.budgets["7.5pct"].cases == tuple(PUBLISHED_SLICES)
    slices = published.budgets["7.5pct_slices"]
    assert (slices.unit, slices.cases) == ("slices", tuple(PUBLISHED_SLICES))
    assert slices.slices == {case: tuple(range(first, last + 1)) for case, (first, last) in PUBLISHED_SLICES.items()}
    assert sum(map(len, slices.slices.values())) == 58


def test_isotropic_headers_are_not_believed(tmp_path: Path) -> None:
    survey = CONVERTER.survey(make_promise12(tmp_path / "a", (1.0, 1.0, 1.0)), CONVERTER.options())
    assert not survey.ours.spacing_known
    assert any("5 of 5 scans state voxels of 1 x 1 x 1 mm" in note for note in survey.notes)


def test_a_case_twice_is_refused_and_damage_is_skipped(tmp_path: Path) -> None:
    source = make_promise12(tmp_path / "a")
    raw_file = source / "TrainingData" / "Case14.zraw"
    raw_file.write_bytes(raw_file.read_bytes()[:-9])
    target = tmp_path / "raw" / "Dataset003_PROMISE12"
    report = CONVERTER.convert(source, target, CONVERTER.options())
    assert [(fault.case, fault.code) for fault in report.skipped] == [("Case14", "E-IMG-02")]
    write_itk(source / "Part2" / "Case14.mhd", grey(1).astype(np.int16), (0.6, 0.6, 3.6))
    with pytest.raises(DataError) as caught:
        CONVERTER.survey(source, CONVERTER.options())
    assert caught.value.code == "E-SRC-13"


def test_real_scans_hold_the_published_slices(tmp_path: Path) -> None:
    source = DATA / "PROMISE12" / "TrainingData"
    if not source.is_dir():
        pytest.skip(f"no PROMISE12 under {DATA} (SAMORA_TEST_DATA)")
    for name in PUBLISHED_SLICES:
        for path in source.glob(f"{name}*"):
            (tmp_path / "in" / "TrainingData").mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / "TrainingData" / path.name).write_bytes(path.read_bytes())
    target = tmp_path / "raw" / "Dataset003_PROMISE12"
    report = CONVERTER.convert(tmp_path / "in", target, CONVERTER.options())
    raw = read_dataset(target)
    assert report.training == 3
    assert not raw.ours.spacing_known
    count = 0
    for name, (first, last) in PUBLISHED_SLICES.items():
        label = raw.training()[name].label
        assert label is not None
        held = np.flatnonzero(read_volume(label).array.any(axis=(0, 1)))
        assert held.tolist() == list(range(first, last + 1))
        assert raw.ours.budgets["7.5pct_slices"].slices[name] == tuple(held)
        count += held.size
    assert count == 58
