"""Small raw datasets for tests, written with nibabel and json alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

AFFINE = np.array([[-1.5, 0, 0, 20], [0, 1.5, 0, -30], [0, 0, 4, 10], [0, 0, 0, 1.0]])


def make_raw_dataset(
    folder: Path,
    cases: int | Sequence[str] = 6,
    test: int | Sequence[str] = 0,
    unlabelled: int | Sequence[str] = 0,
    shape: tuple[int, int, int] = (20, 18, 6),
    channels: Sequence[str] = ("CT",),
    labels: dict[str, Any] | None = None,
    affine: np.ndarray = AFFINE,
    dtype: type = np.int16,
    samora: dict[str, Any] | None = None,
) -> Path:
    """Write a dataset of boxes in noise; each case has its own voxels and every label in a box of its own.

    A number of cases stands for names such as ``case_00`` (``test_00``, ``free_00``). Returns ``folder``.
    """
    declared = {"background": 0, "organ": 1, "lesion": 2} if labels is None else labels
    groups = (("imagesTr", "labelsTr", _names("case", cases)), ("imagesTs", "labelsTs", _names("test", test)))
    for images, label_folder, names in (*groups, ("imagesUn", None, _names("free", unlabelled))):
        for name in names:
            write_case(folder, images, label_folder, name, shape, len(channels), declared, affine, dtype)
    description = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": declared,
        "numTraining": len(_names("case", cases)),
        "file_ending": ".nii.gz",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(description))
    if samora is not None:
        (folder / "samora.json").write_text(json.dumps({"schema_version": 1, **samora}))
    return folder


def write_case(
    folder: Path,
    images: str,
    label_folder: str | None,
    name: str,
    shape: tuple[int, int, int],
    channels: int,
    labels: dict[str, Any],
    affine: np.ndarray = AFFINE,
    dtype: type = np.int16,
) -> None:
    """Write one case; its voxels depend on its name alone."""
    generator = np.random.default_rng(list(name.encode()))
    label = np.zeros(shape, np.uint8)
    values = sorted({value for entry in labels.values() for value in np.atleast_1d(entry).tolist()} - {0})
    for index, value in enumerate(values):
        width = max(1, (shape[0] - 4) // max(len(values), 1))
        label[2 + index * width : 2 + (index + 1) * width, 4:-4, 1:] = value
    for channel in range(channels):
        image = generator.normal(-900 + 40 * channel, 30, shape) + 950.0 * (label > 0) + 20.0 * label
        save(folder / images / f"{name}_{channel:04d}.nii.gz", image.astype(dtype), affine)
    if label_folder is not None:
        save(folder / label_folder / f"{name}.nii.gz", label, affine)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """Write a NIfTI file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def load(path: Path) -> np.ndarray:
    """The voxels of a NIfTI file, to be changed."""
    return np.asanyarray(nibabel.load(path).dataobj).copy()


def tree(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def written(root: Path) -> list[str]:
    """What a command has written under ``root/preprocessed`` beside what is known about the checks of the cases."""
    found = [path.relative_to(root / "preprocessed") for path in (root / "preprocessed").rglob("*") if path.is_file()]
    return sorted(
        path.as_posix()
        for path in found
        if ".fingerprints" not in path.parts and path.name not in ("integrity.json", ".lock")
    )


def _names(prefix: str, cases: int | Sequence[str]) -> list[str]:
    return [f"{prefix}_{index:02d}" for index in range(cases)] if isinstance(cases, int) else list(cases)
