"""A source of Synapse as BTCV gives it out: the true names and slice counts, small slices, drawn organs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt

TRAIN = {
    **{5: 117, 6: 131, 7: 163, 9: 149, 10: 148, 21: 143, 23: 96, 24: 124, 26: 131},
    **{27: 88, 28: 89, 30: 153, 31: 93, 33: 104, 34: 98, 37: 99, 39: 90, 40: 195},
}
TEST = {1: 147, 2: 139, 3: 198, 4: 140, 8: 148, 22: 89, 25: 85, 29: 113, 32: 148, 35: 104, 36: 184, 38: 100}
"""slices by scan, as in the published lists"""
SIDE = 64
_AFFINE = np.diag([-5.0, -5.0, 3.0, 1.0])

# BTCV's value, the centre as shares of the scan (left to right, front to back, bottom to top), radii, HU.
_ORGANS: tuple[tuple[int, tuple[float, float, float], tuple[float, float, float], float], ...] = (
    (6, (0.68, 0.42, 0.66), (0.20, 0.17, 0.22), 110.0),
    (1, (0.24, 0.62, 0.70), (0.11, 0.12, 0.16), 160.0),
    (7, (0.36, 0.36, 0.68), (0.12, 0.11, 0.16), 40.0),
    (2, (0.66, 0.66, 0.42), (0.09, 0.09, 0.16), 200.0),
    (3, (0.32, 0.66, 0.42), (0.09, 0.09, 0.16), 200.0),
    (8, (0.50, 0.62, 0.50), (0.06, 0.06, 0.48), 260.0),
    (4, (0.60, 0.26, 0.46), (0.07, 0.07, 0.09), 5.0),
    (11, (0.46, 0.46, 0.44), (0.13, 0.06, 0.08), 80.0),
)
_BODY, _AIR, _NOISE = 20.0, -1000.0, 15.0


def make_synapse_tree(folder: Path, scans: Collection[int] | None = None) -> Path:
    """Write img/imgNNNN.nii.gz and label/labelNNNN.nii.gz of all scans, or of those that are named."""
    for number, slices in {**TRAIN, **TEST}.items():
        if scans is None or number in scans:
            image, labels = _abdomen(number, slices)
            for kind, voxels in (("img", image), ("label", labels)):
                path = folder / kind / f"{kind}{number:04d}.nii.gz"
                path.parent.mkdir(parents=True, exist_ok=True)
                nibabel.save(nibabel.Nifti1Image(voxels, _AFFINE), path)
    return folder


def _abdomen(seed: int, slices: int) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(0, 1, size) for size in (SIDE, SIDE, slices)), indexing="ij", sparse=True)
    body = sum(((axis - 0.5) / 0.47) ** 2 for axis in axes[:2]) < 1
    image = np.where(body, _BODY, _AIR) + np.zeros((1, 1, slices))
    labels = np.zeros(image.shape, np.uint8)
    for value, centre, radii, intensity in _ORGANS:
        middle = np.add(centre, rng.uniform(-0.03, 0.03, 3))
        size = np.multiply(radii, rng.uniform(0.85, 1.15, 3))
        organ = sum(((axis - at) / radius) ** 2 for axis, at, radius in zip(axes, middle, size, strict=True)) < 1
        image[organ & (labels == 0)] = intensity
        labels[organ & (labels == 0)] = value
    return np.rint(image + rng.normal(0, _NOISE, image.shape)).astype(np.int16), labels
