"""Scans without labels: every format, series and stacks, names, and joining a dataset that is there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.cli import main
from dataset_conversion.datasets.unlabeled import Unlabeled
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.errors import UsageError
from samora_pipeline.imaging.files import read_volume
from tests.dataset_conversion.scan_sources import grey, make_la, make_unlabeled, mask, write_itk, write_pictures
from tests.dataset_conversion.sources import make_nnunet, scan, write_nifti
from tests.imaging.dicom_files import VOXELS, write_series, write_slice

CONVERTER = Unlabeled()


def _convert(root: Path, *arguments: object) -> int:
    return main([*map(str, arguments), "--root", str(root)])


def test_every_format_becomes_an_unlabelled_case(tmp_path: Path) -> None:
    source = make_unlabeled(tmp_path / "in")
    write_series(source / "d" / "deep")
    assert _convert(tmp_path, "-d", "Unlabeled", "-i", source, "--name", "Pool", "--channel", "CT") == 0
    raw = read_dataset(tmp_path / "raw" / "Dataset100_Pool")
    cases = raw.unlabelled()
    assert list(cases) == ["a_other", "a_scan", "b_b_x", "b_b_y", "c_slice", "d_deep"]
    assert raw.description.channel_names == {"0": "CT"}
    assert raw.description.numTraining == 0
    assert not raw.ours.spacing_known
    np.testing.assert_array_equal(read_volume(cases["d_deep"].channels[0]).array, VOXELS)
    np.testing.assert_array_equal(read_volume(cases["b_b_y"].channels[0]).array, grey(3))
    stack = read_volume(cases["c_slice"].channels[0]).array
    np.testing.assert_array_equal(stack, np.stack([grey(n, (12, 10)).T for n in (3, 4, 5)], axis=-1))
    assert cases["a_scan"].channels[0].read_bytes() == (source / "a" / "scan.nii.gz").read_bytes()
    report = json.loads((raw.folder / "conversion.json").read_text())
    assert report["notes"][-1] == "1 files are no scans and were left out: notes.txt"


def test_dicom_says_what_it_is_and_tells_series_apart(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_series(source)
    scout = write_slice(source / "a.dcm", VOXELS[:, :, 0], np.zeros(3), **{"0020_000e": "1.9", "0020_0011": "1"})
    # Archives name files by their unique ids or not at all.
    scout.rename(source / "1.2.840.7")
    survey = CONVERTER.survey(source, CONVERTER.options(name="Pool"))
    assert survey.description.channel_names == {"0": "CT"}
    assert [case.name for case in survey.cases] == ["in_001", "in_003"]
    assert survey.cases[0].load().channels[0].array.shape == (7, 6, 1)
    write_slice(source / "mr.dcm", VOXELS[:, :, 0], np.zeros(3), **{"0020_000e": "1.8", "0008_0060": "MR"})
    with pytest.raises(UsageError, match="CT, MR") as caught:
        CONVERTER.survey(source, CONVERTER.options(name="Pool"))
    assert caught.value.code == "E-ARG-10"


def test_faulty_series_and_label_maps_are_skipped_with_their_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    write_series(source / "broken")[2].unlink()
    write_pictures(source / "gap", [1, 2, 5])
    write_itk(source / "p" / "scan.nrrd", grey(0), (1.0, 1.0, 2.0))
    write_itk(source / "p" / "label.nrrd", mask(0), (1.0, 1.0, 2.0))
    assert _convert(tmp_path, "-d", "Unlabeled", "-i", source, "--name", "Pool", "--channel", "CT") == 3
    said = capsys.readouterr().out
    assert "broken: E-SER-01 slices are missing or repeated between im8.dcm and im6.dcm" in said
    assert "gap_slice: E-SER-01" in said
    assert "no picture 3, 4" in said
    assert "p_label: E-IMG-06" in said
    assert list(read_dataset(tmp_path / "raw" / "Dataset100_Pool").unlabelled()) == ["p_scan"]


def test_pictures_may_be_cases_of_their_own_and_names_may_be_chosen(tmp_path: Path) -> None:
    source = write_pictures(tmp_path / "in", [1, 7])
    write_pictures(tmp_path / "in", [9], "other_{}.tif")
    options = CONVERTER.options(name="P", channel=["MR"], single=True, prefix="new_", match="slice_*")
    survey = CONVERTER.survey(source, options)
    assert [case.name for case in survey.cases] == ["new_slice_001", "new_slice_007"]
    assert survey.cases[1].load().channels[0].array.shape == (10, 12, 1)


def test_channels_in_files_of_their_own(tmp_path: Path) -> None:
    for number in range(2):
        for channel in range(2):
            write_nifti(tmp_path / "in" / f"p{number}_{channel:04d}.nii.gz", scan(10 * number + channel))
    two = CONVERTER.survey(tmp_path / "in", CONVERTER.options(name="P", channel=["T1", "T2"]))
    assert [(case.name, len(case.load().channels)) for case in two.cases] == [("p0", 2), ("p1", 2)]
    one = CONVERTER.survey(tmp_path / "in", CONVERTER.options(name="P", channel=["T1"]))
    assert [case.name for case in one.cases] == ["p0_0000", "p0_0001", "p1_0000", "p1_0001"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_la(tmp_path / "la")
    assert _convert(tmp_path, "-d", "LA", "-i", tmp_path / "la") == 0
    write_itk(tmp_path / "pool" / "x.nrrd", grey(2), (1.0, 1.0, 2.0))
    write_itk(tmp_path / "pool" / "y.mha", grey(3), (1.0, 1.0, 2.0))
    return tmp_path


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_scans_join_a_dataset_and_nothing_else_changes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "raw" / "Dataset002_LA"
    before = _tree(folder)
    command = ("-d", "Unlabeled", "-i", root / "pool", "--add-to", "LA")
    assert _convert(root, *command, "--dry-run") == 0
    assert _tree(folder) == before
    assert _convert(root, *command) == 0
    after = _tree(folder)
    assert sorted(set(after) - set(before)) == [
        "conversion_pool.json",
        "imagesUn/x_0000.nii.gz",
        "imagesUn/y_0000.nii.gz",
    ]
    assert {name: after[name] for name in before} == before
    np.testing.assert_array_equal(read_volume(folder / "imagesUn" / "y_0000.nii.gz").array, grey(3))
    assert _convert(root, *command) == 0
    assert "0 of the files were not in Dataset002_LA yet" in capsys.readouterr().out
    assert sorted(path.name for path in (root / "raw").iterdir()) == ["Dataset002_LA"]


def test_scans_that_do_not_fit_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "raw" / "Dataset002_LA"
    before = _tree(folder)
    command = ("-d", "Unlabeled", "-i", root / "pool", "--add-to", "2")
    assert _convert(root, *command, "--channel", "CT") == 4
    assert "E-CHAN-05" in capsys.readouterr().err
    assert _convert(root, *command, "--id", 7) == 2
    write_itk(root / "pool" / "06SR5RBREL16DQ6M8LWS.nrrd", grey(2), (1.0, 1.0, 2.0))
    assert _convert(root, *command) == 4
    assert "E-CONV-04" in capsys.readouterr().err
    assert _tree(folder) == before
    assert _convert(root, *command, "--prefix", "more_") == 0
    write_itk(root / "pool" / "x.nrrd", grey(7), (1.0, 1.0, 2.0))
    assert _convert(root, *command, "--prefix", "more_") == 4
    assert _convert(root, *command, "--prefix", "more_", "--overwrite") == 0
    np.testing.assert_array_equal(read_volume(folder / "imagesUn" / "more_x_0000.nii.gz").array, grey(7))


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii"])
def test_joined_scans_take_the_format_of_the_dataset(ending: str, tmp_path: Path) -> None:
    assert _convert(tmp_path, "-d", "nnUNet", "-i", _single_channel(tmp_path / "in", ending)) == 0
    write_nifti(tmp_path / "pool" / "x.nii.gz", scan(3))
    assert _convert(tmp_path, "-d", "Unlabeled", "-i", tmp_path / "pool", "--add-to", 42) == 0
    raw = read_dataset(tmp_path / "raw" / "Dataset042_Small")
    volume = read_volume(raw.unlabelled()["x"].channels[0])
    np.testing.assert_array_equal(volume.array, scan(3))
    assert volume.grid.matches(read_volume(tmp_path / "pool" / "x.nii.gz").grid)


def _single_channel(folder: Path, ending: str) -> Path:
    source = make_nnunet(folder, ".nii.gz")
    description = json.loads((source / "dataset.json").read_text())
    description.update(channel_names={"0": "T1"}, file_ending=ending)
    (source / "dataset.json").write_text(json.dumps(description))
    for path in [*source.glob("images*/*"), *source.glob("labels*/*")]:
        if not path.name.endswith("_0001.nii.gz"):
            volume = read_volume(path)
            target = path.with_name(path.name.replace(".nii.gz", ending))
            if ending == ".nii":
                write_nifti(target, volume.array)
            else:
                write_itk(target, volume.array, (1.5, 1.5, 4.0))
        path.unlink()
    return source


def test_one_scan_without_spacing_makes_the_spacing_unknown_and_joins_no_dataset_in_mm(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pictures(root / "pool" / "p", [1, 2])
    assert _convert(root, "-d", "Unlabeled", "-i", root / "pool", "--name", "Pool", "--channel", "LGE") == 0
    assert not read_dataset(root / "raw" / "Dataset100_Pool").ours.spacing_known
    assert _convert(root, "-d", "Unlabeled", "-i", root / "pool", "--add-to", "LA") == 3
    assert "p_slice: E-GEO-03" in capsys.readouterr().out
    assert sorted(read_dataset(root / "raw" / "Dataset002_LA").unlabelled()) == ["x", "y"]


def test_linked_folders_and_old_dicom_are_walked(tmp_path: Path) -> None:
    write_nifti(tmp_path / "elsewhere" / "p" / "t2.nii.gz", scan(0))
    write_nifti(tmp_path / "in" / "own" / "t1.nii.gz", scan(1))
    for path in write_series(tmp_path / "in" / "old"):
        path.write_bytes(path.read_bytes()[132:])
    (tmp_path / "in" / "link").symlink_to("../elsewhere")
    survey = CONVERTER.survey(tmp_path / "in", CONVERTER.options(name="P", channel=["MR"]))
    assert [case.name for case in survey.cases] == ["link_p_t2", "old", "own_t1"]
    np.testing.assert_array_equal(survey.cases[1].load().channels[0].array, VOXELS)
