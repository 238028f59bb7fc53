"""LA: both layouts alike, the lists, and the real scans against the published slice ranges."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from dataset_conversion.datasets.la import LA
from dataset_conversion.survey import ConversionReport
from samora_pipeline.contracts.dataset import RawDataset, read_dataset
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.intensity import scheme_of_channel
from samora_pipeline.imaging.volume import Volume
from tests.dataset_conversion.scan_sources import ATRIA, grey, make_la, make_la_hdf5, mask, write_itk

DATA = Path(os.environ.get("SAMORA_TEST_DATA", Path(__file__).parents[3].parent / "shared" / "data"))
CONVERTER = LA()
# First and last slice with atrium, from 0: the slices that H-SAM trains on (5 % of the scans).
PUBLISHED_SLICES = {
    "06SR5RBREL16DQ6M8LWS": (19, 78),
    "0RZDK210BSMWAA6467LU": (13, 68),
    "1D7CUD1955YZPGK8XHJX": (29, 80),
    "1GU15S0GJ6PFNARO469W": (23, 78),
}


def convert(source: Path, target: Path) -> tuple[RawDataset, ConversionReport]:
    report = CONVERTER.convert(source, target, CONVERTER.options())
    return read_dataset(target), report


def label_of(raw: RawDataset, name: str) -> Volume:
    path = {**raw.training(), **raw.test()}[name].label
    assert path is not None
    return read_volume(path)


def image_of(raw: RawDataset, name: str) -> Volume:
    return read_volume({**raw.training(), **raw.test()}[name].channels[0])


def test_both_layouts_give_the_same_labels_on_the_same_grid(tmp_path: Path) -> None:
    folders, report = convert(make_la(tmp_path / "a"), tmp_path / "raw" / "Dataset002_LA")
    stored, _ = convert(make_la_hdf5(tmp_path / "b"), tmp_path / "raw2" / "Dataset002_LA")
    assert (report.training, report.test, report.skipped) == (3, 1, ())
    assert folders.description.channel_names == stored.description.channel_names == {"0": "LGE"}
    assert scheme_of_channel("LGE") == "percentiles"
    assert folders.ours.spacing_known
    assert stored.ours.spacing_known
    assert "z-scores" in stored.ours.origin
    for seed, name in enumerate(ATRIA):
        first, second = label_of(folders, name), label_of(stored, name)
        np.testing.assert_array_equal(first.array, mask(seed))
        np.testing.assert_array_equal(first.array, second.array)
        assert first.grid == second.grid == image_of(stored, name).grid
        assert first.grid.axes == "LPS"
        z_scores = image_of(stored, name).array
        assert z_scores.dtype == np.float32
        assert np.corrcoef(image_of(folders, name).array.ravel(), z_scores.ravel())[0, 1] > 0.999999


def test_published_lists_are_used_as_far_as_they_go(tmp_path: Path) -> None:
    raw, report = convert(make_la(tmp_path / "a"), tmp_path / "raw" / "Dataset002_LA")
    assert raw.ours.published_split is not None
    assert raw.ours.published_split.train == ATRIA[:3]
    assert raw.ours.published_split.test == (ATRIA[3],)
    assert raw.ours.budgets["5pct"].unit == "cases"
    assert raw.ours.budgets["5pct"].cases == ATRIA[:2]
    notes = "\n".join(report.notes)
    assert "77 of the 80 cases of the published training set are missing" in notes
    assert "19 of the 20 cases of the published test set are missing" in notes
    assert "5pct are missing: 1D7CUD1955YZPGK8XHJX, 1GU15S0GJ6PFNARO469W" in notes


def test_the_complete_lists_are_those_of_the_literature() -> None:
    published = CONVERTER.published()
    assert published.split is not None
    assert (len(published.split.train), len(published.split.test)) == (80, 20)
    assert len({*published.split.train, *published.split.test}) == 100
    assert published.budgets["5pct"].cases == tuple(PUBLISHED_SLICES)
    slices = published.budgets["5pct_slices"]
    assert (slices.unit, slices.cases) == ("slices", tuple(PUBLISHED_SLICES))
    assert slices.slices == {case: tuple(range(first, last + 1)) for case, (first, last) in PUBLISHED_SLICES.items()}
    assert sum(map(len, slices.slices.values())) == 224


def test_lists_of_the_source_replace_the_split_and_that_is_said(tmp_path: Path) -> None:
    source = make_la(tmp_path / "a")
    (source / "train.list").write_text(f"{ATRIA[3]}\n{ATRIA[0]}\n")
    (source / "test.list").write_text(f"{ATRIA[1]}\n")
    raw, report = convert(source, tmp_path / "raw" / "Dataset002_LA")
    assert raw.ours.published_split is not None
    assert raw.ours.published_split.train == (ATRIA[3], ATRIA[0])
    assert list(raw.test()) == [ATRIA[1]]
    assert "(2/1) are not the published ones (80/20)" in report.notes[0]
    assert f"1 labelled scans stand in no list: {ATRIA[2]}" in report.notes
    (source / "test.list").write_text(f"{ATRIA[0]}\n")
    with pytest.raises(DataError) as caught:
        CONVERTER.survey(source, CONVERTER.options())
    assert caught.value.code == "E-SRC-22"


def test_a_shortened_copy_of_the_published_lists_is_still_the_published_split(tmp_path: Path) -> None:
    source = make_la(tmp_path / "a")
    (source / "train.list").write_text("\n".join(ATRIA[:2]))
    (source / "test.list").write_text(ATRIA[3])
    survey = CONVERTER.survey(source, CONVERTER.options())
    assert survey.ours.published_split is not None
    assert survey.ours.published_split.train == ATRIA[:3]
    assert "of the published training set are missing" in survey.notes[0]


def test_impossible_spacings_are_reported_and_taken_as_unknown(tmp_path: Path) -> None:
    source = make_la(tmp_path / "a")
    write_itk(source / "Training Set" / ATRIA[1] / "lgemri.nrrd", grey(1), (1.0, 1.0, 1.0))
    write_itk(source / "Training Set" / ATRIA[1] / "laendo.nrrd", mask(1) * 255, (1.0, 1.0, 1.0))
    survey = CONVERTER.survey(source, CONVERTER.options())
    assert not survey.ours.spacing_known
    assert "1 of 4 scans state voxels of 1 x 1 x 1 mm, not the 0.625 mm of the challenge" in survey.notes[0]
    assert ATRIA[1] in survey.notes[0]


def test_scans_without_labels_test_scans_and_hidden_twins(tmp_path: Path) -> None:
    source = make_la(tmp_path / "a")
    (source / "Training Set" / ATRIA[2] / "laendo.nrrd").unlink()
    write_itk(source / "Testing Set" / "HIDDEN" / "lgemri.nrrd", grey(5), (0.625,) * 3)
    raw, report = convert(source, tmp_path / "raw" / "Dataset002_LA")
    assert list(raw.unlabelled()) == [ATRIA[2]]
    assert report.skipped == ()
    assert "HIDDEN" not in {case.name for case in CONVERTER.survey(source, CONVERTER.options()).cases}
    shutil.copytree(source / "Training Set" / ATRIA[0], source / "again" / ATRIA[0])
    with pytest.raises(DataError) as caught:
        CONVERTER.survey(source, CONVERTER.options())
    assert caught.value.code == "E-SRC-13"


def test_faulty_files_are_skipped(tmp_path: Path) -> None:
    source = make_la_hdf5(tmp_path / "b")
    files = [source / "2018LA_Seg_Training Set" / name / "mri_norm2.h5" for name in ATRIA]
    files[0].write_bytes(files[0].read_bytes()[:-100])
    with h5py.File(files[1], "w") as stored:
        stored["image"] = grey(1)
    with h5py.File(files[2], "a") as stored:
        stored["label"][0, 0, 0] = 3
    raw, report = convert(source, tmp_path / "raw" / "Dataset002_LA")
    assert {fault.case: fault.code for fault in report.skipped} == {
        ATRIA[0]: "E-IMG-02",
        ATRIA[1]: "E-ARRAY-01",
        ATRIA[2]: "E-LABEL-09",
    }
    assert list(raw.test()) == [ATRIA[3]]
    assert not list(raw.training())


def _linked(layout: str, names: tuple[str, ...], target: Path) -> Path:
    """A folder with only these cases of the real copy."""
    inner = "Training Set" if layout == "LA" else "2018LA_Seg_Training Set"
    if not (DATA / layout / inner).is_dir():
        pytest.skip(f"no {layout} under {DATA} (SAMORA_TEST_DATA)")
    (target / inner).mkdir(parents=True)
    for name in names:
        shutil.copytree(DATA / layout / inner / name, target / inner / name)
    return target


def test_real_scans_hold_the_published_slices_in_either_layout(tmp_path: Path) -> None:
    raw, _ = convert(_linked("LA", tuple(PUBLISHED_SLICES), tmp_path / "a"), tmp_path / "raw" / "Dataset002_LA")
    both = ("06SR5RBREL16DQ6M8LWS", "1D7CUD1955YZPGK8XHJX")
    stored, _ = convert(_linked("LA_h5", both, tmp_path / "b"), tmp_path / "raw2" / "Dataset002_LA")
    count = 0
    for name, (first, last) in PUBLISHED_SLICES.items():
        label = label_of(raw, name)
        held = np.flatnonzero(label.array.any(axis=(0, 1)))
        assert held.tolist() == list(range(first, last + 1))
        assert raw.ours.budgets["5pct_slices"].slices[name] == tuple(held)
        count += held.size
        assert label.grid.spacing == pytest.approx((0.625,) * 3)
        if name in both:
            other = label_of(stored, name)
            np.testing.assert_array_equal(other.array, label.array)
            assert other.grid.matches(label.grid)
            grey_values, scores = image_of(raw, name).array, image_of(stored, name).array
            assert np.corrcoef(grey_values.ravel(), scores.ravel())[0, 1] > 0.999999
    assert count == 224


def test_the_real_copy_with_its_own_lists() -> None:
    if not (DATA / "LA").is_dir():
        pytest.skip(f"no LA under {DATA} (SAMORA_TEST_DATA)")
    survey = CONVERTER.survey(DATA / "LA", CONVERTER.options())
    assert (survey.count("Tr"), survey.count("Ts"), survey.count("Un")) == (60, 20, 0)
    assert survey.ours.budgets["5pct"].cases == tuple(PUBLISHED_SLICES)
    assert survey.ours.published_split is not None
    assert survey.ours.published_split.train[:4] == tuple(PUBLISHED_SLICES)
    assert survey.ours.spacing_known
