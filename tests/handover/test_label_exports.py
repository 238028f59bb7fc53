"""Predictions in the formats of viewers, read back by SimpleITK, nibabel and highdicom."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from samora_pipeline.contracts.colours import label_colour
from samora_pipeline.contracts.label_table import label_table
from samora_pipeline.handover.cli import main
from samora_pipeline.imaging.dicom import read_series
from samora_pipeline.imaging.files import read_label_names, read_volume, write_labels
from samora_pipeline.imaging.volume import Volume
from tests.fake_run import LABELS, write_fake_run, write_image
from tests.imaging.dicom_files import SHAPE, write_series
from tests.raw_data import make_raw_dataset

OBLIQUE = np.array([[-1.2, 0.3, 0.0, 7.0], [0.4, 0.9, 0.0, -20.0], [0.0, 0.0, -3.0, 55.5], [0.0, 0.0, 0.0, 1.0]])
TABLE = label_table(LABELS)


@pytest.fixture
def prediction(tmp_path: Path) -> Path:
    """A label map on an oblique grid: liver in one block, no spleen."""
    image = read_volume(write_image(tmp_path / "scan.nii.gz", affine=OBLIQUE))
    labels = np.zeros(image.grid.shape, np.uint8)
    labels[3:9, 4:12, 1:3] = 1
    path = tmp_path / "preds" / "case.nii.gz"
    write_labels(path, labels, image, TABLE)
    return path


def export(source: Path, out: Path, form: str, *more: str) -> int:
    return main(["labels", str(source), "-o", str(out), "--format", form, *more])


def test_slicer_gets_names_colours_values_extents_and_codes(prediction: Path, tmp_path: Path) -> None:
    assert export(prediction.parent, tmp_path / "out", "seg.nrrd") == 0
    path = tmp_path / "out" / "case.seg.nrrd"
    image = SimpleITK.ReadImage(str(path))
    source = SimpleITK.ReadImage(str(prediction))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), SimpleITK.GetArrayFromImage(source))
    np.testing.assert_allclose(image.GetOrigin(), source.GetOrigin(), atol=1e-5)
    np.testing.assert_allclose(image.GetSpacing(), source.GetSpacing(), atol=1e-5)
    np.testing.assert_allclose(image.GetDirection(), source.GetDirection(), atol=1e-5)
    for number, entry in enumerate(TABLE):
        segment = {key: image.GetMetaData(f"Segment{number}_{key}") for key in ("Name", "LabelValue", "Layer")}
        assert segment == {"Name": entry.name, "LabelValue": str(entry.value), "Layer": "0"}
        colour = [float(value) for value in image.GetMetaData(f"Segment{number}_Color").split()]
        np.testing.assert_allclose(colour, np.array(label_colour(number)) / 255, atol=1e-4)
    assert image.GetMetaData("Segment0_Extent") == "3 8 4 11 1 2"
    assert image.GetMetaData("Segment1_Extent") == "0 -1 0 -1 0 -1"
    assert "~SCT^10200004^Liver~" in image.GetMetaData("Segment0_Tags")
    assert image.GetMetaData("Segmentation_MasterRepresentation") == "Binary labelmap"
    ours = read_volume(path)
    np.testing.assert_allclose(ours.grid.matrix, OBLIQUE, atol=1e-5)


def test_a_seg_nrrd_is_the_same_each_time_and_never_taken_for_a_label_map(prediction: Path, tmp_path: Path) -> None:
    assert export(prediction, tmp_path / "out", "seg.nrrd") == 0
    first = (tmp_path / "out" / "case.seg.nrrd").read_bytes()
    shutil.copy(tmp_path / "out" / "case.seg.nrrd", prediction.parent)
    shutil.rmtree(tmp_path / "out")
    assert export(prediction.parent, tmp_path / "out", "seg.nrrd") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case.seg.nrrd"]
    assert (tmp_path / "out" / "case.seg.nrrd").read_bytes() == first


def test_nifti_keeps_names_colours_and_grid(prediction: Path, tmp_path: Path) -> None:
    assert export(prediction, tmp_path / "out", "nii.gz") == 0
    out = tmp_path / "out" / "case.nii.gz"
    assert read_label_names(out) == TABLE
    assert np.array_equal(nibabel.load(out).affine, nibabel.load(prediction).affine)
    assert np.array_equal(np.asarray(nibabel.load(out).dataobj), np.asarray(nibabel.load(prediction).dataobj))


def test_itksnap_gets_a_label_description_file(prediction: Path, tmp_path: Path) -> None:
    assert export(prediction, tmp_path / "out", "itksnap") == 0
    lines = (tmp_path / "out" / "itksnap_labels.txt").read_text().splitlines()
    assert lines[1] == "# ITK-SnAP Label Description File"
    rows = [line.split(maxsplit=7) for line in lines if not line.startswith("#")]
    assert [(int(row[0]), row[7]) for row in rows] == [(0, '"Clear Label"'), (1, '"liver"'), (2, '"spleen"')]
    assert tuple(map(int, rows[1][1:4])) == TABLE[0].colour


def test_names_come_from_the_run_or_the_raw_dataset_where_the_file_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = make_raw_dataset(tmp_path / "raw" / "Dataset007_Boxes", cases=1)
    label = next((tmp_path / "raw" / "Dataset007_Boxes" / "labelsTr").iterdir())
    assert raw is not None
    assert export(label, tmp_path / "out", "nii.gz") == 0
    assert [entry.name for entry in read_label_names(tmp_path / "out" / label.name)] == ["organ", "lesion"]
    lonely = tmp_path / "alone" / "x" / label.name
    lonely.parent.mkdir(parents=True)
    shutil.copy(label, lonely)
    assert export(lonely, tmp_path / "out", "seg.nrrd") == 4
    assert "E-SEG-02" in capsys.readouterr().err
    run = write_fake_run(tmp_path / "results")
    assert export(lonely, tmp_path / "out", "seg.nrrd", "-m", str(run)) == 0
    image = SimpleITK.ReadImage(str(tmp_path / "out" / f"{label.name.removesuffix('.nii.gz')}.seg.nrrd"))
    assert image.GetMetaData("Segment0_Name") == "liver"


def test_one_case_that_cannot_be_written_does_not_stop_the_others(
    prediction: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (prediction.parent / "broken.nii.gz").write_bytes(prediction.read_bytes()[:100])
    like = read_volume(prediction)
    write_labels(prediction.parent / "strange.nii.gz", np.full(like.grid.shape, 9, np.uint8), like, TABLE)
    assert export(prediction.parent, tmp_path / "out", "seg.nrrd") == 3
    said = capsys.readouterr().out
    assert "failed: broken.nii.gz: E-IMG-02" in said
    assert "failed: strange.nii.gz: E-SEG-07" in said
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["case.seg.nrrd", "failures.json"]
    assert export(prediction.parent, tmp_path / "out", "seg.nrrd") == 4
    assert "E-OUT-04" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--format", "dcm"), "E-SEG-03"),
        (("--format", "seg.nrrd", "--dicom", "."), "E-SEG-03"),
        (("--format", "seg.nrrd", "-m", "nothing"), "E-RUN-01"),
    ],
)
def test_options_that_do_not_fit(
    prediction: Path, words: tuple[str, ...], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["labels", str(prediction), "-o", str(prediction.parent / "out"), *words]) in (2, 5)
    assert code in capsys.readouterr().err
    assert main(["labels", str(prediction.parent / "no"), "-o", "out", "--format", "itksnap"]) == 4


def test_dicom_seg_has_the_segments_on_the_frames_of_the_series(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    highdicom = pytest.importorskip("highdicom", reason="highdicom is in the extra dicom")
    folder = tmp_path / "series"
    scan = read_series(write_series(folder, **{"0020_0052": "1.2.3.4.5", "0020_000d": "1.2.3"}))
    labels = np.zeros(SHAPE, np.uint8)
    labels[1:4, 2:5, 1:3] = 2
    labels[5, 1, 4] = 1
    write_labels(tmp_path / "preds" / "case.nii.gz", labels, Volume(labels, scan.grid, scan.path), TABLE)
    assert export(tmp_path / "preds" / "case.nii.gz", tmp_path / "out", "dcm", "--dicom", str(folder)) == 0
    segmentation = highdicom.seg.segread(tmp_path / "out" / "case.dcm")
    segments = segmentation.SegmentSequence
    assert [item.SegmentLabel for item in segments] == ["liver", "spleen"]
    codes = [item.SegmentedPropertyTypeCodeSequence[0].CodeValue for item in segments]
    assert codes == ["10200004", "78961009"]
    shown = highdicom.color.CIELabColor.from_dicom_value(segments[0].RecommendedDisplayCIELabValue).to_rgb()
    np.testing.assert_allclose(shown, TABLE[0].colour, atol=2)
    volume = segmentation.get_volume(combine_segments=True)
    ours = read_volume(tmp_path / "preds" / "case.nii.gz")
    for value in (1, 2):
        # By place, not by index: each labelled voxel lies at the same point of the patient (DICOM counts in LPS).
        own = _points(ours.array == value, np.diag([-1.0, -1.0, 1.0, 1.0]) @ ours.grid.matrix)
        np.testing.assert_allclose(_points(volume.array == value, volume.affine), own, atol=0.02)
    write_labels(tmp_path / "preds" / "none.nii.gz", labels * 0, ours, TABLE)
    assert export(tmp_path / "preds" / "none.nii.gz", tmp_path / "out", "dcm", "--dicom", str(folder)) == 4
    assert "E-SEG-06" in capsys.readouterr().err


def _points(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The places of a mask's voxels in mm, in one order whatever the axes of the mask."""
    indices = np.argwhere(mask)
    points = (np.c_[indices, np.ones(len(indices))] @ affine.T)[:, :3]
    return points[np.lexsort(points.round(1).T)]
