"""One scan, one digest: whatever the file's name, format, compression, number type or orientation."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import digest_voxels

SHAPE = (7, 6, 5)


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    voxels = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([-0.8, -0.8, 3.0, 1.0])), path)
    return path


def _digest(path: Path) -> str:
    return digest_voxels(read_volume(path))


def test_every_orientation_gives_one_digest(scan: Path, tmp_path: Path) -> None:
    image = nibabel.load(scan)
    digests = set()
    for number, (axes, signs) in enumerate(
        itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
    ):
        turned = image.as_reoriented(np.column_stack((axes, signs)))
        nibabel.save(turned, tmp_path / f"{number}.nii")
        digests.add(_digest(tmp_path / f"{number}.nii"))
    assert digests == {_digest(scan)}


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_formats_and_number_types_give_one_digest(scan: Path, tmp_path: Path, ending: str) -> None:
    image = SimpleITK.ReadImage(str(scan))
    for kind in (SimpleITK.sitkInt16, SimpleITK.sitkInt32, SimpleITK.sitkFloat32, SimpleITK.sitkFloat64):
        path = tmp_path / f"another_name_{kind}{ending}"
        SimpleITK.WriteImage(SimpleITK.Cast(image, kind), str(path), useCompression=True)
        assert _digest(path) == _digest(scan)


def test_spacing_and_position_do_not_count(scan: Path, tmp_path: Path) -> None:
    voxels = np.asanyarray(nibabel.load(scan).dataobj)
    affine = np.diag([-2.0, -1.0, 1.0, 1.0])
    affine[:3, 3] = (5, 6, 7)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "moved.nii")
    assert _digest(tmp_path / "moved.nii") == _digest(scan)


def test_one_voxel_or_one_row_makes_another_digest(scan: Path, tmp_path: Path) -> None:
    image = nibabel.load(scan)
    voxels = np.asanyarray(image.dataobj)
    changed = voxels.copy()
    changed[3, 2, 1] += 1
    same_voxels_in_another_shape = voxels.reshape(6, 7, 5)
    mirrored = voxels[::-1]
    digests = {_digest(scan)}
    for number, array in enumerate((changed, voxels[:-1], same_voxels_in_another_shape, mirrored, voxels + 0.25)):
        nibabel.save(nibabel.Nifti1Image(array, image.affine), tmp_path / f"{number}.nii")
        digests.add(_digest(tmp_path / f"{number}.nii"))
    assert len(digests) == 6


def test_the_sign_of_zero_does_not_count(tmp_path: Path) -> None:
    voxels = np.full(SHAPE, 0.5, np.float32)
    for name, zero in (("plus", 0.0), ("minus", -0.0)):
        voxels[0, 0, 0] = zero
        nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / f"{name}.nii")
    assert _digest(tmp_path / "plus.nii") == _digest(tmp_path / "minus.nii")
