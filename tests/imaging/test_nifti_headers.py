"""NIfTI headers that break the standard, and units: the grid that SimpleITK finds, the voxels that were written."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import read_grid, read_volume, write_labels

VOXELS = np.random.default_rng(0).integers(-500, 500, (8, 9, 5)).astype(np.int16)
AFFINE = np.array([[0.0, -0.8, 0.0, 4.0], [0.7, 0.0, 0.0, -3.0], [0.0, 0.0, 2.5, 9.0], [0.0, 0.0, 0.0, 1.0]])
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write(path: Path, change: Callable[[np.ndarray], None], *, both: bool = True) -> Path:
    """VOXELS with a header whose fields ``change`` sets; with sform and qform, or with the sform alone."""
    image = nibabel.Nifti1Image(VOXELS, AFFINE)
    if both:
        image.set_qform(AFFINE, 1)
    content = bytearray(image.to_bytes())
    fields = np.frombuffer(bytes(content[:348]), dtype=nibabel.Nifti1Header.template_dtype).copy()
    change(fields[0])
    content[:348] = fields.tobytes()
    path.write_bytes(gzip.compress(bytes(content)) if path.name.endswith(".gz") else bytes(content))
    return path


def itk_matrix(path: Path) -> np.ndarray:
    image = SimpleITK.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return LPS @ matrix


def qfac_of_zero(h: np.ndarray) -> None:
    h["pixdim"][0] = 0


def qfac_of_zero_and_no_sform(h: np.ndarray) -> None:
    h["pixdim"][0], h["sform_code"] = 0, 0


def quaternion_above_one(h: np.ndarray) -> None:
    h["quatern_b"], h["quatern_c"], h["quatern_d"], h["sform_code"] = 0.6, 0.8, 0.001, 0


def negative_size(h: np.ndarray) -> None:
    h["pixdim"][1] = -h["pixdim"][1]


def sform_of_zeros(h: np.ndarray) -> None:
    h["srow_x"] = h["srow_y"] = h["srow_z"] = 0


def fourth_size_of_zero(h: np.ndarray) -> None:
    h["dim"][0], h["dim"][4] = 4, 0


def micrometres(h: np.ndarray) -> None:
    h["xyzt_units"] = 3


def metres(h: np.ndarray) -> None:
    h["xyzt_units"] = 1


CHANGES = [
    *(qfac_of_zero, qfac_of_zero_and_no_sform, quaternion_above_one, sform_of_zeros),
    *(fourth_size_of_zero, micrometres, metres),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_header_that_others_read_is_read_as_they_read_it(
    change: Callable[[np.ndarray], None], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.nii.gz", change)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, VOXELS)
    np.testing.assert_allclose(volume.grid.matrix, itk_matrix(path), rtol=1e-5, atol=1e-4)
    assert read_grid(path) == volume.grid


@pytest.mark.parametrize("change", CHANGES)
def test_a_label_map_lies_where_its_scan_lies_for_every_reader(
    change: Callable[[np.ndarray], None], tmp_path: Path
) -> None:
    volume = read_volume(write(tmp_path / "a.nii.gz", change))
    labels = (VOXELS > 0).astype(np.uint8)
    write_labels(tmp_path / "labels.nii.gz", labels, volume)
    again = read_volume(tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(again.array, labels)
    assert again.grid.matches(volume.grid)
    np.testing.assert_allclose(itk_matrix(tmp_path / "labels.nii.gz"), volume.grid.matrix, rtol=1e-5, atol=1e-4)
    # The unit of the file is kept.
    stored = nibabel.load(tmp_path / "labels.nii.gz")
    assert stored.header["xyzt_units"] == volume.header["xyzt_units"]


def test_voxels_of_a_single_file_begin_behind_the_header(tmp_path: Path) -> None:
    def change(h: np.ndarray) -> None:
        h["vox_offset"] = 0

    for name in ("a.nii", "a.nii.gz"):
        volume = read_volume(write(tmp_path / name, change))
        np.testing.assert_array_equal(volume.array, VOXELS)
        assert "byte 352" in volume.warnings[0]


def test_an_sform_without_lengths_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="E-IMG-04"):
        read_volume(write(tmp_path / "a.nii.gz", sform_of_zeros, both=False))


def test_a_qform_with_negative_sizes_is_used_by_nobody(tmp_path: Path) -> None:
    volume = read_volume(write(tmp_path / "a.nii.gz", negative_size))
    np.testing.assert_allclose(volume.grid.matrix, AFFINE, rtol=1e-6)
    assert "not used" in volume.warnings[0]

    def alone(h: np.ndarray) -> None:
        negative_size(h)
        h["sform_code"] = 0

    with pytest.raises(DataError, match="E-IMG-03"):
        read_volume(write(tmp_path / "b.nii.gz", alone))


def test_a_file_that_is_called_gz_need_not_be_compressed(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.nii", lambda h: None)
    plain.rename(tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.array, VOXELS)
    assert "not compressed" in volume.warnings[0]
    (tmp_path / "b.nii.gz").write_bytes(b"\0\0" + (tmp_path / "a.nii.gz").read_bytes())
    with pytest.raises(DataError, match="E-IMG-02"):
        read_volume(tmp_path / "b.nii.gz")


def test_an_identity_affine_is_doubted(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "b.nii.gz")
    doubts = [read_volume(tmp_path / name).warnings for name in ("a.nii.gz", "b.nii.gz")]
    assert "identity" in " ".join(doubts[0])
    assert "identity" not in " ".join(doubts[1])
