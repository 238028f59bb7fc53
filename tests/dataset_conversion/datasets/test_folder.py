"""Folders of one's own: matching by name, label maps, pictures."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from dataset_conversion.datasets.folder import Folder
from dataset_conversion.scans import read_label_map
from dataset_conversion.survey import ConversionReport
from samora_pipeline.contracts.dataset import RawDataset, read_dataset
from samora_pipeline.contracts.failures import Failures
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.imaging.dicom import read_series
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.intensity import scheme_of_channel
from tests.dataset_conversion.sources import AFFINE, labels, make_folder, scan, write_nifti, write_png
from tests.imaging.dicom_files import VOXELS, write_series

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


def _two_channels(folder: Path, *cases: str) -> None:
    for number, case in enumerate(cases):
        for channel in range(2):
            write_nifti(folder / "images" / f"{case}_{channel:04d}.nii.gz", scan(10 * number + channel))
        write_nifti(folder / "labels" / f"{case}.nii.gz", labels(number))


@pytest.mark.parametrize("channel", [["T1", "T2"], []])
def test_channels_are_never_renumbered(channel: list[str], tmp_path: Path) -> None:
    source = tmp_path / "in"
    _two_channels(source, "a", "b", "c")
    (source / "images" / "b_0001.nii.gz").rename(source / "images" / "b_0002.nii.gz")
    (source / "images" / "b_0000.nii.gz").rename(source / "images" / "b_0001.nii.gz")
    (source / "images" / "c_0001.nii.gz").unlink()
    write_nifti(source / "images" / "d_0000.nii.gz", scan(3))
    write_nifti(source / "images" / "d_0001.nii.gz", scan(4))
    raw, report = _convert(source, channel=channel)
    assert sorted((fault.case, fault.code) for fault in report.skipped) == [("b", "E-CHAN-01"), ("c", "E-CHAN-01")]
    assert (list(raw.training()), list(raw.unlabelled())) == (["a"], ["d"])
    np.testing.assert_array_equal(read_volume(raw.training()["a"].channels[1]).array, scan(1))
    failures = read_json(Failures, raw.folder / "failures.json").cases
    assert {name: failure.code for name, failure in failures.items()} == {"b": "E-CHAN-01", "c": "E-CHAN-01"}


@pytest.mark.parametrize("labelled", [True, False])
def test_numbers_of_patients_are_no_channels(labelled: bool, tmp_path: Path) -> None:
    source, first = tmp_path / "in", int(not labelled)
    for number in range(first, first + 3):
        write_nifti(source / "images" / f"amos_{number:04d}.nii.gz", scan(number))
        if labelled:
            write_nifti(source / "labels" / f"amos_{number:04d}.nii.gz", labels(number))
    raw, report = _convert(source)
    assert len(raw.description.channel_names) == 1
    assert (report.training, report.unlabelled, report.skipped) == ((3, 0, ()) if labelled else (0, 3, ()))


def test_a_second_file_of_a_case_is_no_second_channel(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    write_nifti(source / "images" / "scan1.nii", scan(1))
    raw, report = _convert(source)
    assert [(fault.case, fault.code) for fault in report.skipped] == [("scan1", "E-INPUT-02")]
    assert list(raw.training()) == ["scan0"]


def test_one_name_that_cannot_be_a_files_concerns_its_case(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    odd = os.fsdecode(b"M\xfcnster.nii.gz")
    for folder in ("images", "labels"):
        (source / folder / odd).write_bytes((source / folder / "scan0.nii.gz").read_bytes())
    raw, report = _convert(source)
    assert [(fault.case, fault.code) for fault in report.skipped] == [("M\\udcfcnster", "E-CASE-02")]
    assert list(raw.training()) == ["scan0", "scan1"]


def test_a_series_and_pictures_in_folders_are_matched_like_files(tmp_path: Path) -> None:
    source = tmp_path / "in"
    files = write_series(source / "images" / "p 1" / "ct")
    scanned = read_series(files)
    write_nifti(source / "labels" / "p_1_ct.nii.gz", (VOXELS > 0).astype(np.uint8), scanned.grid.matrix)
    write_nifti(source / "images" / "p2" / "b.nii.gz", scan(1))
    write_nifti(source / "labels" / "p2" / "b.nii.gz", labels(1, top=1))
    raw, report = _convert(source, channel=["CT"])
    assert not report.skipped
    assert sorted(raw.training()) == ["p2_b", "p_1_ct"]
    np.testing.assert_array_equal(read_volume(raw.training()["p_1_ct"].channels[0]).array, VOXELS)


def test_labels_stored_in_another_order_of_axes_lie_where_their_header_says(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    stored = nibabel.load(source / "labels" / "scan1.nii.gz")
    nibabel.save(stored.as_reoriented(np.array([[2, 1], [0, -1], [1, -1]])), source / "labels" / "scan1.nii.gz")
    raw, report = _convert(source)
    assert not report.skipped
    label = raw.training()["scan1"].label
    assert label is not None
    np.testing.assert_array_equal(np.asarray(nibabel.load(label).dataobj), labels(1))
    np.testing.assert_allclose(nibabel.load(label).affine, AFFINE)


def _stored_with_slope(path: Path, array: np.ndarray) -> None:
    image = nibabel.Nifti1Image(array * np.uint8(255), AFFINE)
    content = bytearray(image.to_bytes())
    content[112:116] = np.float32(1 / 255).tobytes()
    path.write_bytes(gzip.compress(bytes(content)))


def test_values_within_rounding_of_whole_numbers_are_those(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    for number in range(2):
        _stored_with_slope(source / "labels" / f"scan{number}.nii.gz", labels(number, top=1))
    assert read_volume(source / "labels" / "scan1.nii.gz").array.max() != 1
    raw, report = _convert(source)
    assert (report.training, report.skipped) == (2, ())
    assert raw.description.labels == {"background": 0, "label_1": 1}


@pytest.mark.parametrize(
    ("change", "code", "word"),
    [
        (lambda drawn: drawn.astype(np.int32) * 1005, "E-LABEL-02", "1005"),
        (lambda drawn: drawn.astype(np.float32) * 0.5, "E-LABEL-02", "0.5"),
        (lambda drawn: drawn * 0, "E-LABEL-09", "no label"),
    ],
)
def test_the_reason_is_told_when_no_label_map_can_be_used(
    change: Callable[[np.ndarray], np.ndarray], code: str, word: str, tmp_path: Path
) -> None:
    source = make_folder(tmp_path / "in")
    for number in range(2):
        write_nifti(source / "labels" / f"scan{number}.nii.gz", change(labels(number, top=1)))
    with pytest.raises(DataError) as caught:
        _convert(source)
    assert caught.value.code == code
    assert word in caught.value.text()


def test_segmentations_of_slicer_are_matched(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    for path in (source / "labels").iterdir():
        image = SimpleITK.ReadImage(str(path))
        SimpleITK.WriteImage(image, str(path.with_name(path.name.replace(".nii.gz", ".seg.nrrd"))))
        path.unlink()
    assert _convert(source)[1].training == 2


def test_the_report_names_the_folders_that_were_read(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    target = tmp_path / "raw" / "Dataset100_Mine"
    options = CONVERTER.options(name="Mine", images=str(source / "images"), labels=str(source / "labels"))
    assert CONVERTER.convert(Path("nowhere"), target, options).source == f"{source}/images and {source}/labels"


@pytest.mark.parametrize("ending", ["tif", "jpg"])
def test_every_kind_of_picture_is_taken(ending: str, tmp_path: Path) -> None:
    grey = np.full((8, 9), 100, np.uint8)
    (tmp_path / "in" / "images").mkdir(parents=True)
    Image.fromarray(grey).save(tmp_path / "in" / "images" / f"a.{ending}")
    write_png(tmp_path / "in" / "labels" / "a.png", np.eye(8, 9, dtype=np.uint8))
    raw, report = _convert(tmp_path / "in")
    assert (report.training, raw.ours.spacing_known) == (1, False)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "in" / "images").mkdir(parents=True)
    (tmp_path / "in" / "images" / "a.bmp").touch()
    with pytest.raises(DataError, match=r"\.bmp"):
        _convert(tmp_path / "in")


def test_a_folder_of_both_folders_stands_for_the_two(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    raw, report = _convert(tmp_path / "nowhere", images=str(source))
    assert (report.training, report.unlabelled) == (2, 1)
    assert sorted(raw.training()) == ["scan0", "scan1"]


def test_label_maps_that_lie_among_the_images_are_no_scans(tmp_path: Path) -> None:
    source = make_folder(tmp_path / "in")
    (source / "labels").rename(source / "contours")
    _, report = _convert(tmp_path / "nowhere", images=str(source))
    skipped = [("contours_scan0", "E-IMG-06"), ("contours_scan1", "E-IMG-06")]
    assert [(fault.case, fault.code) for fault in report.skipped] == skipped
    assert report.unlabelled == 3
