"""Synapse in both layouts: the same cases, labels, lists and plan; doubts and gaps are said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.cli import main as convert
from dataset_conversion.datasets.synapse import Synapse
from dataset_conversion.survey import ConversionReport
from dataset_conversion.synapse_slices import restore_hounsfield
from planners.cli import main as plan
from samora_pipeline.contracts.dataset import RawDataset, read_dataset
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.splits import Splits
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import to_slices
from tests.dataset_conversion.public_sources import (
    in_order,
    make_btcv,
    make_synapse_slices,
    organs,
)
from tests.dataset_conversion.sources import scan, write_nifti

CONVERTER = Synapse()
ORGANS = ["spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas"]


def _convert(source: Path, target: Path, **options: object) -> tuple[RawDataset, ConversionReport]:
    report = CONVERTER.convert(source, target, CONVERTER.options(**options))
    return read_dataset(target), report


def _fault(source: Path, tmp_path: Path, **options: object) -> DataError:
    with pytest.raises(DataError) as caught:
        _convert(source, tmp_path / "raw" / "Dataset001_Synapse", **options)
    assert not (tmp_path / "raw").exists()
    return caught.value


@pytest.mark.parametrize("nesting", ["", "Training", "RawData/Training", "Abdomen/RawData/Training"])
def test_raw_scans_become_eight_organs(nesting: str, tmp_path: Path) -> None:
    source = make_btcv(tmp_path / "in", nesting=nesting)
    raw, report = _convert(source, tmp_path / "out")
    assert (report.training, report.test, report.skipped) == (2, 1, ())
    assert list(raw.description.labels) == ["background", *ORGANS]
    assert (list(raw.training()), list(raw.test())) == (["case0005", "case0006"], ["case0001"])
    for number, case in ((5, raw.training()["case0005"]), (1, raw.test()["case0001"])):
        assert case.label is not None
        # Oracle: SAMed's order is the order of the dataset.
        np.testing.assert_array_equal(read_volume(case.label).array, in_order(organs(number), "samed"))
        original = source / nesting / "img" / f"img{number:04d}.nii.gz"
        assert case.channels[0].read_bytes() == original.read_bytes()
    assert (raw.ours.window, raw.ours.mirror, raw.ours.spacing_known) == ((-125, 275), True, True)
    assert raw.ours.budget_unit == "slices"


@pytest.mark.parametrize("order", ["transunet", "samed", "btcv"])
def test_the_preprocessed_distribution_gives_the_same_as_the_raw_scans(order: str, tmp_path: Path) -> None:
    raw, _ = _convert(make_btcv(tmp_path / "scans", (5, 6, 7, 1, 2)), tmp_path / "raw")
    stored, report = _convert(make_synapse_slices(tmp_path / "slices", order), tmp_path / "stored")
    assert report.skipped == ()
    assert f"label order {order} in train_npz" in report.notes[0]
    assert stored.description == raw.description
    assert list(stored.training()) == list(raw.training())
    for name in ("case0005", "case0007"):
        ours, theirs = stored.training()[name], raw.training()[name]
        assert ours.label is not None
        assert theirs.label is not None
        for mine, original, clip in ((ours.channels[0], theirs.channels[0], True), (ours.label, theirs.label, False)):
            slices, _ = to_slices((read_volume(mine),), "axial")
            expected, _ = to_slices((read_volume(original),), "axial")
            assert slices.dtype == np.int16
            np.testing.assert_array_equal(slices, np.clip(expected, -125, 275) if clip else expected)
    assert not stored.ours.spacing_known
    assert stored.ours.window == (-125.0, 275.0)
    assert order in stored.ours.origin
    assert "distances will be in pixels" in " ".join(report.notes)


def test_slices_are_kept_as_they_are_drawn(tmp_path: Path) -> None:
    source = make_synapse_slices(tmp_path / "in")
    raw, _ = _convert(source, tmp_path / "out")
    slices, _ = to_slices((read_volume(raw.training()["case0006"].channels[0]),), "axial")
    for index in (0, 3, 7):
        with np.load(source / "train_npz" / f"case0006_slice{index:03d}.npz") as stored:
            np.testing.assert_allclose((slices[index, 0] + 125) / 400, stored["image"], atol=1e-6)


def test_an_undecidable_order_is_an_error_until_it_is_said(tmp_path: Path) -> None:
    source = make_synapse_slices(tmp_path / "in", train=(5,), test=())
    for path in (source / "train_npz").iterdir():
        with np.load(path) as arrays:
            image, label = arrays["image"], arrays["label"]
        # Gallbladder and right kidney of one size.
        label[(label == 4) & (np.cumsum(label == 4).reshape(label.shape) > 2)] = 0
        np.savez(path, image=image, label=label)
    error = _fault(source, tmp_path)
    assert error.code == "E-LABEL-11"
    assert "--label-order transunet" in error.fix
    raw, report = _convert(source, tmp_path / "out", label_order="samed")
    assert "as given with --label-order" in report.notes[0]
    assert "samed" in raw.ours.origin


def test_halves_of_two_distributions_are_refused(tmp_path: Path) -> None:
    error = _fault(make_synapse_slices(tmp_path / "in", "samed", test_order="transunet"), tmp_path)
    assert error.code == "E-LABEL-12"


def test_intensities_of_another_scale_set_the_case_aside(tmp_path: Path) -> None:
    source = make_synapse_slices(tmp_path / "in")
    for path in (source / "train_npz").glob("case0006_*.npz"):
        with np.load(path) as arrays:
            np.savez(path, image=arrays["image"] * 400 - 125, label=arrays["label"])
    raw, report = _convert(source, tmp_path / "out")
    assert [(fault.case, fault.code) for fault in report.skipped] == [("case0006", "E-SCALE-01")]
    assert raw.ours.published_split is not None
    assert raw.ours.published_split.train == ("case0005", "case0007")


def test_resized_slices_stay_fractions() -> None:
    whole = np.arange(-125, 276, dtype=np.float32)
    np.testing.assert_array_equal(restore_hounsfield((whole + 125) / 400, Path("x")), whole)
    between = restore_hounsfield(np.array([[-0.02, 0.3], [0.5001, 1.07]], np.float32), Path("x"))
    assert between.dtype == np.float32
    np.testing.assert_allclose(between, [[-133.0, -5.0], [75.04, 303.0]], atol=1e-3)


def test_a_copy_with_gaps_is_used_as_far_as_it_goes(tmp_path: Path) -> None:
    source = make_synapse_slices(tmp_path / "in")
    (source / "train_npz" / "case0005_slice002.npz").unlink()
    (source / "train_npz" / "case0006_slice003.npz").unlink()
    (source / "train_npz" / "._case0005_slice004.npz").write_bytes(b"Mac OS X")
    survey = CONVERTER.survey(source, CONVERTER.options())
    # Published: 4, 5, 22, ... of case0005 and 0, 3, 7, 16, ... of case0006, which end at slice 7 here.
    assert survey.ours.budgets["10pct"].slices == {"case0005": (3, 4), "case0006": (0, 6), "case0007": (5, 7)}
    notes = " ".join(survey.notes)
    assert "case0005 (1), case0006 (1)" in notes
    assert "15 of the 18 cases of the published training set are missing: case0009" in notes
    assert "published slices of 10pct are missing" in notes


def test_one_half_alone_is_converted_and_said(tmp_path: Path) -> None:
    raw, report = _convert(make_synapse_slices(tmp_path / "in", test=()), tmp_path / "out")
    assert (report.training, report.test) == (3, 0)
    assert "12 of the 12 cases of the published test set are missing" in " ".join(report.notes)
    assert raw.ours.published_split is not None
    assert raw.ours.published_split.test == ()


def test_wrong_folders_are_refused_with_the_expected_tree(tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "images").mkdir(parents=True)
    error = _fault(source, tmp_path)
    assert error.code == "E-SRC-01"
    assert "train_npz/caseNNNN_sliceNNN.npz" in error.expected
    assert "label/labelNNNN.nii.gz" in error.expected
    make_btcv(source)
    make_synapse_slices(source)
    assert _fault(source, tmp_path).code == "E-SRC-12"
    make_synapse_slices(tmp_path / "two")
    make_synapse_slices(tmp_path / "two" / "other")
    assert _fault(tmp_path / "two", tmp_path).code == "E-SRC-11"


def test_scans_without_a_partner_are_left_out_and_named(tmp_path: Path) -> None:
    source = make_btcv(tmp_path / "in")
    (source / "label" / "label0006.nii.gz").unlink()
    write_nifti(source / "label" / "label0009.nii.gz", organs(9))
    _, report = _convert(source, tmp_path / "out")
    assert report.training == 1
    assert "img0006.nii.gz" in report.notes[0]
    assert "label0009.nii.gz" in report.notes[1]


def test_dry_run_counts_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_synapse_slices(tmp_path / "in")
    before = sorted(tmp_path.rglob("*"))
    assert convert(["-d", "Synapse", "-i", str(source), "--root", str(tmp_path / "root"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "Dataset001_Synapse  would be written" in said
    assert "3 training, 2 test, 0 unlabelled cases" in said
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("layout", [make_btcv, make_synapse_slices])
def test_the_planner_accepts_it_as_it_is(layout: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = layout(tmp_path / "in")  # type: ignore[operator]
    root = tmp_path / "root"
    assert convert(["-d", "Synapse", "-i", str(source), "--root", str(root)]) == 0
    assert plan(["-d", "1", "--verify-only", "--root", str(root)]) == 0
    assert "Hounsfield" not in capsys.readouterr().out
    written = [path.name for path in (root / "preprocessed").rglob("*") if path.is_file()]
    assert written == ["integrity.json"]


@pytest.mark.parametrize("upwards", [True, False])
def test_published_slices_follow_the_raw_axis_through_the_plan(upwards: bool, tmp_path: Path) -> None:
    depth = 117
    affine = np.diag([-1.0, -1.0, 3.0 if upwards else -3.0, 1.0])
    source, root = tmp_path / "in", tmp_path / "root"
    for number in (5, 1):
        write_nifti(source / "img" / f"img{number:04d}.nii.gz", scan(number, (16, 12, depth)), affine)
        write_nifti(source / "label" / f"label{number:04d}.nii.gz", organs(number, (16, 12, depth)), affine)
    assert convert(["-d", "Synapse", "-i", str(source), "--root", str(root)]) == 0
    assert plan(["-d", "1", "--root", str(root)]) == 0
    folder = root / "preprocessed" / "Dataset001_Synapse"
    plans, splits = read_json(Plans, folder / "plans.json"), read_json(Splits, folder / "splits.json")
    assert plans.slice_axis.value == "axial"
    assert (plans.intensity.value[0].low, plans.intensity.value[0].high) == (-125, 275)
    assert plans.mirror.value
    assert splits.default_fold == "official"
    assert splits.folds["official"].train == ("case0005",)
    assert splits.folds["official"].scored == ("case0001",)
    published = (4, 5, 22, 46, 58, 60, 65, 77, 91, 110, 116)
    expected = published if upwards else tuple(sorted(116 - index for index in published))
    assert splits.published["10pct"].slices == {"case0005": expected}
