"""Folders of one's own: matching by name, label maps, pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.datasets.folder import Folder
from dataset_conversion.scans import read_label_map
from dataset_conversion.survey import ConversionReport
from samora_pipeline.contracts.dataset import RawDataset, read_dataset
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.intensity import scheme_of_channel
from tests.dataset_conversion.sources import labels, make_folder, scan, write_nifti, write_png

CONVERTER = Folder()


def _convert(source: Path, **options: object) -> tuple[RawDataset, ConversionReport]:
    target = source.parent / "raw" / "Dataset100_Mine"
    report = CONVERTER.convert(source, target, CONVERTER.options(name="Mine", **options))
    return read_dataset(target), report


def _map(path: Path, content: object) -> str:
    path.write_text(json.dumps(content))
    return str(path)


def test_images_and_labels_are_matched_by_name(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    raw, report = _convert(source, channel=["CT"])
    assert (report.training, report.unlabelled) == (2, 1)
    assert raw.description.channel_names == {"0": "CT"}
    assert raw.description.labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert list(raw.unlabelled()) == ["scan2"]
    assert report.notes == ("1 images have no label map and went to imagesUn",)
    label = raw.training()["scan1"].label
    assert label is not None
    np.testing.assert_array_equal(read_volume(label).array, labels(1))


def test_channels_that_nobody_named_have_a_name_that_can_be_planned(tmp_path: Path) -> None:
    raw, report = _convert(make_folder(tmp_path / "in"))
    assert raw.description.channel_names == {"0": "zscore"}
    assert any("say --channel CT" in note for note in report.notes)
    for number in range(2):
        write_nifti(tmp_path / "two" / "images" / f"p_{number:04d}.nii.gz", scan(number))
    write_nifti(tmp_path / "two" / "labels" / "p.nii.gz", labels(0, top=1))
    raw, _ = _convert(tmp_path / "two")
    assert raw.description.channel_names == {"0": "zscore", "1": "zscore"}
    assert scheme_of_channel("zscore") == "percentiles"


def test_the_folders_may_lie_apart_and_hold_several_channels(tmp_path: Path) -> None:
    for number in range(2):
        write_nifti(tmp_path / "mr" / f"p_{number:04d}.nii.gz", scan(number))
    write_nifti(tmp_path / "masks" / "p.nii.gz", labels(0, top=1))
    raw, _ = _convert(
        tmp_path / "nowhere", images=str(tmp_path / "mr"), labels=str(tmp_path / "masks"), channel=["T1", "T2"]
    )
    assert raw.description.channel_names == {"0": "T1", "1": "T2"}
    np.testing.assert_array_equal(read_volume(raw.training()["p"].channels[1]).array, scan(1))


def test_a_label_map_renames_merges_and_drops_values(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    for number in range(2):
        write_nifti(source / "labels" / f"scan{number}.nii.gz", labels(number, top=4))
    path = _map(tmp_path / "map.json", {"tumour": [4, 2], "liver": [1], "background": [0, 3]})
    raw, _ = _convert(source, label_map=path)
    assert raw.description.labels == {"background": 0, "tumour": 1, "liver": 2}
    label = raw.training()["scan0"].label
    assert label is not None
    expected = np.array([0, 2, 1, 0, 1], np.uint8)[labels(0, top=4)]
    np.testing.assert_array_equal(read_volume(label).array, expected)


def test_a_value_outside_the_map_sets_the_case_aside(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    write_nifti(source / "labels" / "scan1.nii.gz", labels(1, top=5))
    raw, report = _convert(source, label_map=_map(tmp_path / "map.json", {"a": [1], "b": [2]}))
    assert [(fault.case, fault.code) for fault in report.skipped] == [("scan1", "E-LABEL-09")]
    assert "3, 4, 5" in report.skipped[0].reason
    assert list(raw.training()) == ["scan0"]


def test_gaps_are_refused_with_names_to_type(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    for number in range(2):
        write_nifti(source / "labels" / f"scan{number}.nii.gz", 3 * labels(number))
    with pytest.raises(DataError) as caught:
        _convert(source)
    assert (caught.value.code, caught.value.found) == ("E-LABEL-09", "0, 3, 6")
    assert caught.value.fix.startswith("--label-names label_3 label_6")
    with pytest.raises(DataError) as caught:
        _convert(source, label_names=["liver"])
    assert (caught.value.code, caught.value.found) == ("E-LABEL-09", "0, 3, 6")
    raw, _ = _convert(source, label_names=["liver", "tumour"])
    assert raw.description.labels == {"background": 0, "liver": 1, "tumour": 2}
    label = raw.training()["scan1"].label
    assert label is not None
    np.testing.assert_array_equal(read_volume(label).array, labels(1))
    assert not list(tmp_path.glob("raw/.partial-*"))


def test_a_single_value_needs_no_name(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    for number in range(2):
        write_nifti(source / "labels" / f"scan{number}.nii.gz", 255 * labels(number, top=1))
    raw, _ = _convert(source)
    assert raw.description.labels == {"background": 0, "foreground": 1}


@pytest.mark.parametrize("suffix", ["_mask", "-seg", "_label", ".seg", "-Labels", "_GT", "_segmentation"])
def test_one_folder_with_both_is_told_by_suffix(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    for number in range(3):
        write_nifti(folder / f"p{number}.nii.gz", scan(number))
    for number in range(2):
        write_nifti(folder / f"p{number}{suffix}.nii.gz", labels(number))
    raw, report = _convert(tmp_path / "in", images=str(folder))
    assert sorted(raw.training()) == ["p0", "p1"]
    assert list(raw.unlabelled()) == ["p2"]
    assert f"label maps end with {suffix}: p0{suffix}.nii.gz is that of p0" in report.notes


def test_a_suffix_without_its_image_is_a_scan(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    for name in ("p0", "bone_gt"):
        write_nifti(folder / f"{name}.nii.gz", scan(0))
    write_nifti(folder / "p0_gt.nii.gz", labels(0))
    raw, _ = _convert(tmp_path / "in", images=str(folder))
    assert (list(raw.training()), list(raw.unlabelled())) == (["p0"], ["bone_gt"])


def test_both_may_have_suffixes_in_two_folders(tmp_path: Path) -> None:
    for number in range(2):
        write_nifti(tmp_path / "a" / f"p{number}_image.nii.gz", scan(number))
        write_nifti(tmp_path / "b" / f"p{number}_label.nii.gz", labels(number))
    raw, _ = _convert(tmp_path / "in", images=str(tmp_path / "a"), labels=str(tmp_path / "b"))
    assert sorted(raw.training()) == ["p0_image", "p1_image"]
    write_nifti(tmp_path / "b" / "p0_mask.nii.gz", labels(0))
    with pytest.raises(DataError) as caught:
        CONVERTER.survey(
            tmp_path / "in", CONVERTER.options(images=str(tmp_path / "a"), labels=str(tmp_path / "b"), name="M")
        )
    assert caught.value.code == "E-SRC-13"


@pytest.mark.parametrize(
    "content",
    [{"a": [1], "b": [1]}, {"a": [256]}, {"a": [-1]}, {"a": [0]}, {"background": [0]}, {}, {"a": []}, {"a": [1, 1]}],
)
def test_maps_that_contradict_themselves_are_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_label_map(Path(_map(tmp_path / "map.json", content)))
    assert caught.value.code == "E-LABEL-10"


@pytest.mark.parametrize("content", [{"a": 1}, {"a": ["1"]}, [1], {"255": "tumour"}])
def test_maps_of_another_form_are_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_label_map(Path(_map(tmp_path / "map.json", content)))
    assert caught.value.code == "E-JSON-03"


def test_all_label_maps_without_an_image_are_listed(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    for number in range(7, 30):
        write_nifti(source / "labels" / f"other{number}.nii.gz", labels(number))
    with pytest.raises(DataError) as caught:
        _convert(source)
    assert caught.value.code == "E-SRC-03"
    assert all(f"other{number}.nii.gz" in caught.value.found for number in range(7, 30))


def test_images_without_any_labels_make_a_pool(tmp_path: Path) -> None:
    write_nifti(tmp_path / "in" / "images" / "a.nii.gz", scan(0))
    raw, report = _convert(tmp_path / "in")
    assert (report.training, report.unlabelled) == (0, 1)
    assert raw.description.numTraining == 0


def test_grey_pictures_become_volumes_of_one_slice(tmp_path: Path) -> None:
    source = tmp_path / "in"
    grey = np.random.default_rng(0).integers(0, 256, (7, 9)).astype(np.uint8)
    write_png(source / "images" / "eye.png", grey)
    write_png(source / "labels" / "eye.png", ((grey > 128) * 255).astype(np.uint8))
    raw, report = _convert(source, label_map=_map(tmp_path / "map.json", {"vessel": [255]}))
    assert not raw.ours.spacing_known
    assert "pixels" in report.notes[0]
    case = raw.training()["eye"]
    volume = read_volume(case.channels[0])
    assert volume.grid.shape == (9, 7, 1)
    assert volume.grid.spacing is None
    np.testing.assert_array_equal(volume.array[:, :, 0], grey.T)
    assert case.label is not None
    np.testing.assert_array_equal(read_volume(case.label).array[:, :, 0], (grey > 128).T)


def test_colour_pictures_become_three_channels_and_a_grey_one_among_them_is_skipped(tmp_path: Path) -> None:
    source = tmp_path / "in"
    colours = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.uint8)
    write_png(source / "images" / "a.png", colours)
    write_png(source / "images" / "b.png", colours[..., 0])
    for name in "ab":
        write_png(source / "labels" / f"{name}.png", (colours[..., 0] > 128).astype(np.uint8))
    raw, report = _convert(source)
    assert raw.description.channel_names == {"0": "R", "1": "G", "2": "B"}
    np.testing.assert_array_equal(read_volume(raw.training()["a"].channels[2]).array[:, :, 0], colours[..., 2].T)
    assert [(fault.case, fault.code) for fault in report.skipped] == [("b", "E-CHAN-01")]


def test_pictures_and_volumes_do_not_mix(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    write_png(source / "images" / "a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError) as caught:
        _convert(source)
    assert caught.value.code == "E-SRC-04"


@pytest.mark.parametrize("name", ["", "my data", "../x", "a/b"])
def test_a_name_is_needed(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        CONVERTER.identify("Folder", tmp_path, CONVERTER.options(name=name))
    assert caught.value.code == "E-ARG-07"
