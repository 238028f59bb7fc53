"""Scans as converters take them: pictures beside volumes, channels apart, and no image library of their own."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

import dataset_conversion
from dataset_conversion.scans import is_plain_nifti, read_scan, split_channels
from tests.dataset_conversion.sources import scan, write_nifti


def test_pictures_and_volumes_are_read_by_name(tmp_path: Path) -> None:
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(tmp_path / "a.png")
    assert read_scan(tmp_path / "a.png").array.shape == (3, 2, 1)
    volume = read_scan(write_nifti(tmp_path / "b.nii.gz", scan(0)))
    np.testing.assert_array_equal(volume.array, scan(0))


def test_channels_come_apart_on_one_grid(tmp_path: Path) -> None:
    stored = scan(1, (12, 10, 6, 3))
    volume = read_scan(write_nifti(tmp_path / "a.nii.gz", stored))
    parts = split_channels(volume)
    assert [part.grid for part in parts] == [volume.grid] * 3
    np.testing.assert_array_equal(parts[2].array, stored[..., 2])
    assert split_channels(parts[0]) == (parts[0],)


def test_only_three_dimensional_compressed_nifti_can_stay_as_it_is(tmp_path: Path) -> None:
    for name, array in (("a.nii.gz", scan(0)), ("b.nii", scan(0)), ("c.nii.gz", scan(0)[..., None])):
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / name)
    assert [is_plain_nifti(read_scan(tmp_path / name)) for name in ("a.nii.gz", "b.nii", "c.nii.gz")] == [
        True,
        False,
        False,
    ]


def test_converters_leave_image_libraries_to_the_library() -> None:
    pattern = re.compile(r"^\s*(?:import|from) (?:nibabel|SimpleITK|PIL|pydicom)\b", re.MULTILINE)
    sources = Path(dataset_conversion.__file__).parent.rglob("*.py")
    assert [path.name for path in sources if pattern.search(path.read_text())] == []
