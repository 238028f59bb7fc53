"""DICOM as archives keep it: other objects beside the slices, old and compressed files, numbers that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.dicom import find_series, is_dicom, read_series
from samora_pipeline.imaging.dicom_bytes import check_pixel_bytes, is_without_pixels
from tests.imaging.dicom_files import VOXELS, write_series

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
uid = pytest.importorskip("pydicom.uid")

OBJECTS = {
    "report": "1.2.840.10008.5.1.4.1.1.88.11",
    "contours": "1.2.840.10008.5.1.4.1.1.481.3",
    "presentation": "1.2.840.10008.5.1.4.1.1.11.1",
    "document": "1.2.840.10008.5.1.4.1.1.104.1",
}


def write_object(path: Path, kind: str, **values: Any) -> Path:
    """A DICOM object without pixels, with a sequence of defined and one of undefined length in it."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = OBJECTS[kind], uid.generate_uid()
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    stored = pydicom.Dataset()
    stored.file_meta = meta
    stored.SOPClassUID, stored.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    stored.SeriesInstanceUID, stored.Modality, stored.SeriesNumber = uid.generate_uid(), "OT", 9
    inner = pydicom.Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "of no matter"
    outer = pydicom.Dataset()
    outer.ConceptNameCodeSequence = [inner]
    outer.is_undefined_length_sequence_item = True
    stored.ContentSequence = [outer, inner]
    stored["ContentSequence"].is_undefined_length = True
    for name, value in values.items():
        setattr(stored, name, value)
    stored.save_as(path, enforce_file_format=True)
    return path


def changed(paths: list[Path], **values: Any) -> list[Path]:
    for path in paths:
        stored = pydicom.dcmread(path)
        for name, value in values.items():
            setattr(stored, name, value)
        stored.save_as(path)
    return paths


@pytest.mark.parametrize("kind", OBJECTS)
def test_objects_without_pixels_are_passed_over(kind: str, tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    other = write_object(tmp_path / "other.dcm", kind)
    assert is_without_pixels(other)
    assert not is_without_pixels(paths[0])
    (series,) = find_series([*paths, other])
    np.testing.assert_array_equal(read_series(series.paths).array, VOXELS)


def test_a_truncated_file_is_never_taken_for_an_object_without_pixels(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    content = paths[2].read_bytes()
    pixels = content.index(b"\xe0\x7f\x10\x00")
    for length in (*range(140, pixels, 7), pixels + 4, len(content) - 2):
        paths[2].write_bytes(content[:length])
        assert not is_without_pixels(paths[2])


def test_a_file_of_many_frames_is_a_series_of_its_own(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    stored = pydicom.dcmread(paths[0])
    stored.NumberOfFrames, stored.SeriesInstanceUID = 2, "1.2.3.77"
    stored.PixelData = stored.PixelData * 2
    stored.SOPClassUID = stored.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    stored.save_as(tmp_path / "frames.dcm")
    series = find_series([*paths, tmp_path / "frames.dcm"])
    assert sorted(len(one.paths) for one in series) == [1, 5]
    with pytest.raises(DataError, match="E-IMG-03"):
        read_series(next(one.paths for one in series if len(one.paths) == 1))


@pytest.mark.parametrize(("text", "number"), [("7.0", 7), ("seven", 0), ("", 0), ("inf", 0), ("1\\2", 0)])
def test_any_text_may_be_the_number_of_a_series(text: str, number: int, tmp_path: Path) -> None:
    (series,) = find_series(write_series(tmp_path, **{"0020|0011": text}))
    assert series.number == number


@pytest.mark.parametrize("cosines", [[0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [2, 0, 0, 0, 1, 0]])
def test_an_orientation_that_is_none_is_refused(cosines: list[float], tmp_path: Path) -> None:
    paths = changed(write_series(tmp_path), ImageOrientationPatient=cosines)
    with pytest.raises(DataError, match="E-IMG-03") as caught:
        read_series(paths)
    assert "orientation" in caught.value.found


def test_files_without_preamble_are_dicom_whatever_they_are_called(tmp_path: Path) -> None:
    for path in write_series(tmp_path):
        path.write_bytes(path.read_bytes()[132:])
        path.rename(path.with_suffix(""))
    (tmp_path / "notes").write_text("ordinary text, no picture at all, and long enough")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    found = [path for path in sorted(tmp_path.iterdir()) if is_dicom(path)]
    assert len(found) == len(VOXELS[0, 0])
    (series,) = find_series(found)
    np.testing.assert_array_equal(read_series(series.paths).array, VOXELS)


@pytest.mark.parametrize("syntax", ["DeflatedExplicitVRLittleEndian", "ExplicitVRLittleEndian"])
def test_transfer_syntaxes_are_read_whole_or_not_at_all(syntax: str, tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    for path in paths:
        stored = pydicom.dcmread(path)
        stored.file_meta.TransferSyntaxUID = getattr(uid, syntax)
        stored.save_as(path, implicit_vr=False, little_endian=True)
        np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, stored.pixel_array)
    np.testing.assert_array_equal(read_series(paths).array, VOXELS)
    content = paths[1].read_bytes()
    for lost in (4, 30, 60):
        paths[1].write_bytes(content[:-lost])
        with pytest.raises(DataError, match="E-IMG-0"):
            read_series(paths)


def test_big_endian_pixels_are_read(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    for path in paths:
        stored = pydicom.dcmread(path)
        before, swapped = stored.pixel_array, pydicom.Dataset()
        swapped.update(stored)
        swapped.file_meta = stored.file_meta
        swapped.file_meta.TransferSyntaxUID = uid.ExplicitVRBigEndian
        swapped.add_new("PixelData", "OW", np.frombuffer(stored.PixelData, "<i2").astype(">i2").tobytes())
        swapped.save_as(path, enforce_file_format=True)
        np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, before)
        check_pixel_bytes(path.read_bytes())
    np.testing.assert_array_equal(read_series(paths).array, VOXELS)
