"""Small copies of LA, PROMISE12 and of scans without labels, with the names that their distributors use."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import SimpleITK
from PIL import Image

from tests.dataset_conversion.sources import scan, write_nifti

ATRIA = ("06SR5RBREL16DQ6M8LWS", "0RZDK210BSMWAA6467LU", "23X6SY44VT9KFHR7S7OC", "UPT6DX9IQY9JAZ7HJKA7")
PROSTATES = ("Case05", "Case14", "Case00", "Case16")


def grey(seed: int, shape: tuple[int, ...] = (9, 8, 7)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 190, shape).astype(np.uint8)


def mask(seed: int, shape: tuple[int, ...] = (9, 8, 7)) -> np.ndarray:
    drawn = np.zeros(shape, np.uint8)
    drawn[2:6, 3:6, 1 + seed % 3 : 5] = 1
    return drawn


def write_itk(path: Path, array: np.ndarray, spacing: tuple[float, float, float]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose()))
    image.SetSpacing(spacing)
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    return path


def make_la(folder: Path, spacing: float = 0.625) -> Path:
    """Four scans of the challenge, three of the published training set and one of its test set."""
    for seed, name in enumerate(ATRIA):
        case = folder / "Training Set" / name
        write_itk(case / "lgemri.nrrd", grey(seed), (spacing,) * 3)
        write_itk(case / "laendo.nrrd", mask(seed) * 255, (spacing,) * 3)
        (case / "._lgemri.nrrd").write_bytes(b"Mac OS X")
    return folder


def make_la_hdf5(folder: Path) -> Path:
    """The same scans as the semi-supervised literature distributes them."""
    for seed, name in enumerate(ATRIA):
        path = folder / "2018LA_Seg_Training Set" / name / "mri_norm2.h5"
        path.parent.mkdir(parents=True)
        image = grey(seed).astype(np.float64)
        with h5py.File(path, "w") as stored:
            scaled = ((image - image.mean()) / image.std()).astype(np.float32)
            stored.create_dataset("image", data=scaled, compression="gzip")
            stored.create_dataset("label", data=mask(seed), compression="gzip")
    return folder


def make_promise12(folder: Path, spacing: tuple[float, float, float] = (0.6, 0.6, 3.6)) -> Path:
    """Four labelled scans, one of them of the literature's test set, and a test scan of the challenge."""
    for seed, name in enumerate(PROSTATES):
        training = folder / "TrainingData"
        write_itk(training / f"{name}.mhd", grey(seed).astype(np.int16), spacing)
        write_itk(training / f"{name}_segmentation.mhd", mask(seed).astype(np.int8), spacing)
    write_itk(folder / "TestData" / "Case05.mhd", grey(9).astype(np.int16), spacing)
    (folder / "TrainingData" / "._Case05.mhd").write_bytes(b"Mac OS X")
    return folder


def write_pictures(folder: Path, numbers: list[int], name: str = "slice_{:03d}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        Image.fromarray(grey(number, (12, 10))).save(folder / name.format(number))
    return folder


def make_unlabeled(folder: Path) -> Path:
    """One scan of each format, none with a channel number; DICOM has a test of its own."""
    write_nifti(folder / "a" / "scan.nii.gz", scan(0))
    write_nifti(folder / "a" / "other.nii", scan(1))
    write_itk(folder / "b b" / "x.nrrd", grey(2), (1.0, 1.0, 2.0))
    write_itk(folder / "b b" / "y.mhd", grey(3), (1.0, 1.0, 2.0))
    write_pictures(folder / "c", [3, 4, 5])
    (folder / "notes.txt").write_text("nothing")
    (folder / "a" / "._scan.nii.gz").write_bytes(b"Mac OS X")
    return folder
