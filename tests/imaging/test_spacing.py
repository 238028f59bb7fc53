"""Spacing is what a file states, or unknown: from every reader, never 1 mm for want of better."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from samora_pipeline.imaging.dicom import read_series
from samora_pipeline.imaging.files import read_grid, read_volume, write_labels, write_volume
from samora_pipeline.imaging.pictures import read_picture
from samora_pipeline.imaging.volume import Volume, make_grid
from tests.imaging.dicom_files import ORIGIN, VOXELS, write_series, write_slice

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

SPACING = (0.5, 0.75, 3.0)


def itk_file(path: Path, pattern: bytes, instead: bytes) -> Volume:
    """VOXELS as SimpleITK writes them, with the lines of the header that match replaced."""
    image = SimpleITK.GetImageFromArray(VOXELS.transpose())
    image.SetSpacing(SPACING)
    SimpleITK.WriteImage(image, str(path))
    content, count = re.subn(pattern, instead, path.read_bytes(), count=1)
    assert count == 1
    path.write_bytes(content)
    return read_volume(path)


def nifti(path: Path, sizes: tuple[float, ...]) -> Volume:
    header = nibabel.Nifti1Header()
    header.set_data_shape(VOXELS.shape)
    header.set_data_dtype(np.int16)
    header["pixdim"][1:4] = sizes
    header["vox_offset"], header["magic"] = 352, b"n+1"
    path.write_bytes(header.binaryblock + bytes(4) + VOXELS.tobytes(order="F"))
    return read_volume(path)


def tiff(path: Path, stated: object = None) -> Volume:
    pages = [Image.fromarray(np.ascontiguousarray(VOXELS[:, :, k].T).astype(np.uint16)) for k in range(5)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    if stated is not None:
        path.with_name("a.json").write_text(json.dumps({"spacing": stated}))
    return read_picture(path)


def png(path: Path) -> Volume:
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(path)
    return read_picture(path)


_NO_SPACE = (
    rb"space: [^\n]*\nsizes([^\n]*)\n[^\0]*?raw\n[^\n]*\n",
    rb"sizes\1\nspacings: 1 nan 1\nendian: little\nencoding: raw\n",
)
UNKNOWN: dict[str, Callable[[Path], Volume]] = {
    "NIfTI without sizes": lambda folder: nifti(folder / "a.nii", (0, 0, 0)),
    "NRRD without directions": lambda folder: itk_file(folder / "a.nrrd", rb"space directions[^\n]*\n", b""),
    "NRRD without space": lambda folder: itk_file(folder / "a.nrrd", *_NO_SPACE),
    "MetaImage": lambda folder: itk_file(folder / "a.mha", rb"ElementSpacing[^\n]*\n", b""),
    "PNG": lambda folder: png(folder / "a.png"),
    "TIFF": lambda folder: tiff(folder / "a_0000.tif"),
}
KNOWN: dict[str, Callable[[Path], Volume]] = {
    "NIfTI": lambda folder: nifti(folder / "a.nii", SPACING),
    "NRRD in micrometres": lambda folder: itk_file(
        folder / "a.nrrd",
        rb"space directions[^\n]*\n",
        b'space directions: (500,0,0) (0,750,0) (0,0,3000)\nspace units: "um" "um" "um"\n',
    ),
    "MetaImage in centimetres": lambda folder: itk_file(
        folder / "a.mha", rb"ElementSpacing[^\n]*\n", b"ElementSpacing = 0.05 0.075 0.3\nDistanceUnits = cm\n"
    ),
    "MetaImage with sizes alone": lambda folder: itk_file(
        folder / "a.mha", rb"ElementSpacing[^\n]*\n", b"ElementSize = 0.5 0.75 3\n"
    ),
    "TIFF with nnU-Net's file": lambda folder: tiff(folder / "a_0000.tif", [3, 0.75, 0.5]),
}


@pytest.mark.parametrize("kind", UNKNOWN)
def test_what_is_not_stated_is_unknown(kind: str, tmp_path: Path) -> None:
    volume = UNKNOWN[kind](tmp_path)
    assert volume.grid.spacing is None
    assert np.isfinite(volume.grid.steps).all()


@pytest.mark.parametrize("kind", KNOWN)
def test_what_is_stated_comes_in_mm(kind: str, tmp_path: Path) -> None:
    volume = KNOWN[kind](tmp_path)
    assert volume.grid.spacing == pytest.approx(SPACING, rel=1e-6)
    if volume.path.suffix != ".tif":
        assert read_grid(volume.path) == volume.grid


def test_unknown_stays_unknown_in_the_files_that_are_made(tmp_path: Path) -> None:
    grid = make_grid(VOXELS.shape, np.eye(4), spacing_known=False)
    write_volume(tmp_path / "a.nii.gz", VOXELS, grid)
    scan = read_volume(tmp_path / "a.nii.gz")
    write_labels(tmp_path / "b.nii.gz", (VOXELS > 0).astype(np.uint8), scan)
    write_labels(tmp_path / "c.nii.gz", (VOXELS > 0).astype(np.uint8), Volume(VOXELS, grid, tmp_path))
    for name in "abc":
        assert read_grid(tmp_path / f"{name}.nii.gz").spacing is None


def without(path: Path, *tags: str) -> Path:
    """A slice whose file lacks tags."""
    stored = pydicom.dcmread(path)
    for tag in tags:
        stored.pop(tag, None)
    stored.save_as(path)
    return path


def test_a_series_without_pixel_spacing_has_no_spacing(tmp_path: Path) -> None:
    paths = write_series(tmp_path)
    assert read_series(paths).grid.spacing is not None
    assert read_series([without(path, "PixelSpacing") for path in paths]).grid.spacing is None


def test_a_single_slice_has_the_thickness_that_it_states(tmp_path: Path) -> None:
    path = write_slice(tmp_path / "a.dcm", VOXELS[:, :, 0], ORIGIN, **{"0018|0050": "5.0"})
    without(path, "SpacingBetweenSlices")
    assert pydicom.dcmread(path).SliceThickness == 5.0
    assert read_series([path]).grid.spacing == pytest.approx((0.8, 0.9, 5.0))
    assert read_series([without(path, "SliceThickness")]).grid.spacing is None
