"""DICOM series: values and geometry against what was written, and every fault of a series by name."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.byte_checks import DamagedError
from samora_pipeline.imaging.dicom import find_series, is_dicom, read_series
from samora_pipeline.imaging.dicom_bytes import check_pixel_bytes
from tests.imaging.dicom_files import COLUMN, GAP, NORMAL, ORIGIN, ROW, SHAPE, VOXELS, write_series, write_slice


def refused(paths: list[Path]) -> DataError:
    with pytest.raises(DataError) as caught:
        read_series(paths)
    return caught.value


def test_a_series_equals_what_was_written(tmp_path: Path) -> None:
    volume = read_series(write_series(tmp_path))
    np.testing.assert_array_equal(volume.array, VOXELS)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([ROW * 0.8, COLUMN * 0.9, NORMAL * GAP], axis=1)
    affine[:3, 3] = ORIGIN
    np.testing.assert_allclose(volume.grid.matrix, np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine, atol=1e-3)
    expected = SimpleITK.ImageSeriesReader()
    expected.SetFileNames(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
    stacked = SimpleITK.GetArrayFromImage(expected.Execute()).transpose()
    np.testing.assert_array_equal(stacked, volume.array)


def test_files_are_told_apart_by_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    scout = write_slice(tmp_path / "a.dcm", VOXELS[:, :, 0], ORIGIN, **{"0020_000e": "1.2.9", "0020_0011": "1"})
    found = find_series([*paths, scout])
    assert [(one.number, one.modality, len(one.paths)) for one in found] == [(1, "CT", 1), (3, "CT", 5)]
    assert is_dicom(scout)
    (tmp_path / "notes.txt").write_text("nothing")
    assert not is_dicom(tmp_path / "notes.txt")


def test_a_missing_slice_is_named_with_its_neighbours(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    error = refused([*paths[:2], *paths[3:]])
    assert error.code == "E-SER-01"
    assert "between im8.dcm and im6.dcm" in error.what
    assert "5.00 mm; 1 slice is missing" in error.found
    assert "2.50 mm" in error.expected


def test_irregular_and_repeated_positions_are_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    write_slice(paths[2], VOXELS[:, :, 2], ORIGIN + 2.2 * GAP * NORMAL)
    error = refused(paths)
    assert error.code == "E-SER-01"
    assert "missing" not in error.found
    write_slice(paths[2], VOXELS[:, :, 2], ORIGIN + GAP * NORMAL)
    assert "the same position" in refused(paths).found


def test_positions_rounded_to_two_decimals_are_regular(tmp_path: Path) -> None:
    paths = []
    for k in range(SHAPE[2]):
        position = np.round(ORIGIN + k * 0.7 * NORMAL, 2)
        paths.append(write_slice(tmp_path / f"{k}.dcm", VOXELS[:, :, k], position))
    assert abs(read_series(paths).grid.steps[2] - 0.7) < 0.01


def test_a_tilted_gantry_is_refused(tmp_path: Path) -> None:
    step = GAP * NORMAL + 0.6 * COLUMN
    paths = [write_slice(tmp_path / f"{k}.dcm", VOXELS[:, :, k], ORIGIN + k * step) for k in range(SHAPE[2])]
    error = refused(paths)
    assert error.code == "E-SER-03"
    assert "2.40 mm" in error.found


@pytest.mark.parametrize("fault", ["size", "direction"])
def test_a_slice_of_another_kind_is_named(fault: str, tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    position = ORIGIN + 2 * GAP * NORMAL
    if fault == "size":
        write_slice(paths[2], VOXELS[:, :4, 2], position)
    else:
        write_slice(paths[2], VOXELS[:, :, 2], position, **{"0020_0037": "1\\0\\0\\0\\1\\0"})
    error = refused(paths)
    assert error.code == "E-SER-02"


@pytest.mark.parametrize("lost", [1, 2, 20, 60, 300])
def test_truncated_files_are_never_read(lost: int, tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[:-lost])
    error = refused(paths)
    assert error.code in ("E-IMG-02", "E-IMG-03")
    assert paths[1].name in error.text()


def _encapsulate(content: bytes, delimiter: bytes) -> bytes:
    """The native pixels of a file as one fragment of undefined length, as compressed syntaxes store them."""
    start = content.index(struct.pack("<HH", 0x7FE0, 0x10))
    pixels = content[start + 8 :]
    fragments = struct.pack("<HHI", 0xFFFE, 0xE000, 0) + struct.pack("<HHI", 0xFFFE, 0xE000, len(pixels)) + pixels
    return content[: start + 4] + b"OW\0\0" + struct.pack("<I", 0xFFFFFFFF) + fragments + delimiter


def test_fragments_need_their_end(tmp_path: Path) -> None:
    path = write_series(tmp_path)[0]
    whole = _encapsulate(path.read_bytes(), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0))
    check_pixel_bytes(whole)
    for lost in (8, 9, 40):
        with pytest.raises(DamagedError):
            check_pixel_bytes(whole[:-lost])


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
def test_compressed_slices_are_read_whole_or_not_at_all(compressor: str, tmp_path: Path) -> None:
    plane = np.random.default_rng(0).integers(0, 4000, (64, 48)).astype(np.uint16)
    image = SimpleITK.GetImageFromArray(plane.T[None])
    for key, value in (("0020|0032", "1\\2\\3"), ("0020|0037", "1\\0\\0\\0\\1\\0"), ("0008|0060", "MR")):
        image.SetMetaData(key, value)
    writer = SimpleITK.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(image)
    np.testing.assert_array_equal(read_series([tmp_path / "a.dcm"]).array[:, :, 0], plane)
    content = (tmp_path / "a.dcm").read_bytes()
    assert b"OB\0\0\xff\xff\xff\xff" in content
    for lost in (1, 8, 30, 500):
        (tmp_path / "a.dcm").write_bytes(content[:-lost])
        assert refused([tmp_path / "a.dcm"]).code == "E-IMG-02"


def test_colour_and_many_frames_are_refused(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    image = SimpleITK.GetImageFromArray(np.zeros((1, 4, 5, 3), np.uint8), isVector=True)
    SimpleITK.WriteImage(image, str(tmp_path / "colour.dcm"))
    assert refused([*paths, tmp_path / "colour.dcm"]).code == "E-IMG-03"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.zeros((3, 4, 5), np.uint8)), str(tmp_path / "frames.dcm"))
    error = refused([tmp_path / "frames.dcm"])
    assert error.code == "E-IMG-03"
    assert "3 frames" in error.found
