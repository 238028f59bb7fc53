"""A small dataset on disk: labels, predictions, dataset.json and samora.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson, write_dataset

AFFINE = np.diag([0.8, 0.8, 2.5, 1.0])
LABELS = {"background": 0, "liver": 1, "spleen": 2}

Write = Callable[..., None]


def write_volume(path: Path, array: npt.NDArray[Any], affine: npt.NDArray[Any] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def organs(shift: int = 0, spleen: bool = True) -> npt.NDArray[np.uint8]:
    labels = np.zeros((16, 14, 8), dtype=np.uint8)
    labels[2 + shift : 8 + shift, 3:9, 2:6] = 1
    if spleen:
        labels[11:14, 3:6, 1 + shift : 4 + shift] = 2
    return labels


@pytest.fixture
def save() -> Write:
    """Writes (path, array, affine) as NIfTI."""
    return write_volume


@pytest.fixture
def make_organs() -> Callable[..., npt.NDArray[np.uint8]]:
    """Makes a volume with a liver (1), and a spleen (2) unless told otherwise, shifted by some voxels."""
    return organs


def make_dataset(root: Path) -> Path:
    """Four cases of three patients: c's spleen is absent and predicted, d's is missed."""
    folder = root / "Dataset090_Phantom"
    truth = {"a": organs(), "b": organs(1), "c": organs(spleen=False), "d": organs()}
    guess = {"a": organs(), "b": organs(2), "c": organs(), "d": organs(1, spleen=False)}
    for case in truth:
        write_volume(folder / "labelsTs" / f"{case}.nii.gz", truth[case])
        write_volume(folder / "preds" / f"{case}.nii.gz", guess[case])
    write_dataset(
        folder,
        DatasetJson({"0": "CT"}, dict(LABELS), 0, ".nii.gz"),
        SamoraJson(phantom=True, patients={"a": "p1", "b": "p1"}),
    )
    return folder


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """The folder of ``make_dataset``."""
    return make_dataset(tmp_path)
