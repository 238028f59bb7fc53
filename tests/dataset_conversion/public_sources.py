"""Downloads of public datasets in miniature: the exact names and folders, drawn scans."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import h5py
import numpy as np

from dataset_conversion.synapse_labels import ORDERS
from tests.dataset_conversion.sources import labels, scan, write_nifti

SHAPE = (16, 12, 8)
# As KiTS19 writes them: the first axis runs downwards, the second to the back, the third to the left.
KITS_AFFINE = np.array([[0, 0, -0.8, 0], [0, -0.9, 0, 0], [-3.0, 0, 0, 0], [0, 0, 0, 1]])

# Voxels of each of BTCV's 13 organs, in the proportions of a body: liver the largest, a kidney five gallbladders.
_VOXELS = {6: 400, 1: 120, 2: 90, 3: 90, 7: 110, 8: 50, 11: 40, 4: 18, 5: 15, 9: 25, 10: 12, 12: 6, 13: 6}


def organs(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A label map with BTCV's values."""
    flat = np.zeros(int(np.prod(shape)), np.uint8)
    order = np.random.default_rng(seed).permutation(list(_VOXELS))
    flat[: sum(_VOXELS.values())] = np.repeat(order, [_VOXELS[value] for value in order])
    return np.roll(flat, 7 * seed).reshape(shape)


def in_order(btcv: np.ndarray, order: str) -> np.ndarray:
    """A label map with the eight organs of Synapse in one of the orders in which they are distributed."""
    if order == "btcv":
        return btcv
    result = np.zeros_like(btcv)
    for organ, values in ORDERS["btcv"].values.items():
        if organ != "background":
            result[np.isin(btcv, values)] = ORDERS[order].values[organ][0]
    return result


def make_btcv(folder: Path, numbers: Iterable[int] = (5, 6, 1), nesting: str = "", depth: int = SHAPE[2]) -> Path:
    """RawData/Training of the challenge (or another nesting), with a ghost of macOS."""
    shape = (SHAPE[0], SHAPE[1], depth)
    for number in numbers:
        write_nifti(folder / nesting / "img" / f"img{number:04d}.nii.gz", scan(number, shape))
        write_nifti(folder / nesting / "label" / f"label{number:04d}.nii.gz", organs(number, shape))
    (folder / nesting / "img" / "._img0005.nii.gz").write_bytes(b"Mac OS X")
    (folder / nesting / "label" / "._label0005.nii.gz").write_bytes(b"Mac OS X")
    return folder


def make_synapse_slices(
    folder: Path,
    order: str = "transunet",
    train: Iterable[int] = (5, 6, 7),
    test: Iterable[int] = (1, 2),
    test_order: str = "",
) -> Path:
    """The preprocessed distribution of the scans of ``make_btcv``: clipped, scaled, [slice, row, column]."""
    for number in train:
        image, label = _preprocessed(number, order)
        for index in range(len(image)):
            path = folder / "train_npz" / f"case{number:04d}_slice{index:03d}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, image=image[index], label=label[index])
    for number in test:
        image, label = _preprocessed(number, test_order or order)
        path = folder / "test_vol_h5" / f"case{number:04d}.npy.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            file["image"], file["label"] = image, label
    return folder


def _preprocessed(number: int, order: str) -> tuple[np.ndarray, np.ndarray]:
    image = (np.clip(scan(number, SHAPE).astype(np.float32), -125, 275) + 125) / 400
    label = in_order(organs(number), order).astype(np.float32)
    return image.transpose(2, 1, 0), label.transpose(2, 1, 0)


def make_amos(folder: Path, parts: Mapping[str, Iterable[int]] | None = None) -> Path:
    """Training, validation and test part with CT (below 500) and MR (from 500); the test part has no labels."""
    for part, numbers in (parts or {"Tr": (1, 499, 500), "Va": (8, 507), "Ts": (2, 600)}).items():
        for number in numbers:
            name = f"amos_{number:04d}.nii.gz"
            write_nifti(folder / f"images{part}" / name, scan(number))
            if part != "Ts":
                write_nifti(folder / f"labels{part}" / name, labels(number, 15))
    (folder / "imagesTr" / "._amos_0001.nii.gz").write_bytes(b"Mac OS X")
    return folder


def make_lits(folder: Path) -> Path:
    """Two batches of training scans and one test scan, uncompressed."""
    for batch, numbers in (("Training Batch 1", (0, 2)), ("Training Batch 2", (10,))):
        for number in numbers:
            write_nifti(folder / batch / f"volume-{number}.nii", scan(number))
            write_nifti(folder / batch / f"segmentation-{number}.nii", labels(number))
    write_nifti(folder / "LITS-Challenge-Test-Data" / "test-volume-0.nii", scan(70))
    (folder / "Training Batch 1" / "._volume-0.nii").write_bytes(b"Mac OS X")
    return folder


def make_kits(folder: Path) -> Path:
    """Two labelled cases and one without labels, with the axes and the affine of the originals."""
    for number in range(3):
        case = folder / "data" / f"case_{number:05d}"
        write_nifti(case / "imaging.nii.gz", scan(number, (6, 12, 10)), KITS_AFFINE)
        if number < 2:
            write_nifti(case / "segmentation.nii.gz", labels(number, 2, (6, 12, 10)), KITS_AFFINE)
    (folder / "data" / "kits.json").write_text("[]")
    (folder / "data" / "case_00000" / "._imaging.nii.gz").write_bytes(b"Mac OS X")
    return folder
