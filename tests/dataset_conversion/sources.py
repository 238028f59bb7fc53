"""Small sources for the converters: what each expects to find, made from drawn scans."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

AFFINE = np.diag([-1.5, -1.5, 4.0, 1.0])


def scan(seed: int, shape: tuple[int, ...] = (12, 10, 6)) -> np.ndarray:
    return np.random.default_rng(seed).integers(-200, 300, shape).astype(np.int16)


def labels(seed: int, top: int = 2, shape: tuple[int, ...] = (12, 10, 6)) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, top + 1, shape).astype(np.uint8)
    drawn.flat[: top + 1] = range(top + 1)
    return drawn


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return path


def write_png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def make_decathlon(folder: Path, channels: int = 1, training: int = 3, test: int = 1) -> Path:
    """A task in the decathlon's own layout; with several channels the images are 4-D."""
    task = folder / "Task04_Tiny"
    shape = (12, 10, 6) if channels == 1 else (12, 10, 6, channels)
    pairs, tests = [], []
    for number in range(training):
        name = f"tiny_{number:03d}.nii.gz"
        write_nifti(task / "imagesTr" / name, scan(number, shape))
        write_nifti(task / "labelsTr" / name, labels(number))
        pairs.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    for number in range(training, training + test):
        write_nifti(task / "imagesTs" / f"tiny_{number:03d}.nii.gz", scan(number, shape))
        tests.append(f"./imagesTs/tiny_{number:03d}.nii.gz")
    (task / "imagesTr" / "._tiny_000.nii.gz").write_bytes(b"Mac OS X")
    description = {
        "name": "Tiny",
        "description": "nothing in particular",
        "reference": "nobody",
        "licence": "CC-BY-SA 4.0",
        "tensorImageSize": "3D" if channels == 1 else "4D",
        "modality": {str(number): name for number, name in enumerate(("MRI", "T2", "ADC")[:channels])},
        "labels": {"0": "background", "1": "Front", "2": "Back"},
        "numTraining": training,
        "numTest": test,
        "training": pairs,
        "test": tests,
    }
    (task / "dataset.json").write_text(json.dumps(description))
    return task


def make_nnunet(folder: Path, ending: str = ".nii.gz") -> Path:
    """A raw dataset with two channels, a region, an unknown key and an unlabelled training image."""
    raw = folder / "Dataset042_Small"
    for number in range(3):
        for channel in range(2):
            write_nifti(raw / "imagesTr" / f"case_{number}_{channel:04d}{ending}", scan(10 * number + channel))
    for number in range(2):
        write_nifti(raw / "labelsTr" / f"case_{number}{ending}", labels(number))
    for channel in range(2):
        write_nifti(raw / "imagesTs" / f"case_9_{channel:04d}{ending}", scan(90 + channel))
    description = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "whole": [1, 2], "core": [2]},
        "regions_class_order": [1, 2],
        "numTraining": 3,
        "file_ending": ending,
        "licence": "CC0",
        "release": {"version": 3},
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    return raw


def make_folder(folder: Path) -> Path:
    """Three images and two label maps that lie apart."""
    for number in range(3):
        write_nifti(folder / "images" / f"scan{number}.nii.gz", scan(number))
    for number in range(2):
        write_nifti(folder / "labels" / f"scan{number}.nii.gz", labels(number))
    return folder
