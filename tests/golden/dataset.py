"""Seven scans of balls in a grey body, drawn from a seed: a raw dataset that no converter has a part in."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

NAME = "Dataset090_Balls"
_SIZE, _DEPTH = 32, 5
_LABELLED, _UNLABELLED = 6, 1


def write_raw_dataset(root: Path) -> None:
    """Write images, labels and dataset.json below ``root/raw``."""
    raw = root / "raw" / NAME
    for folder in ("imagesTr", "labelsTr", "imagesUn"):
        (raw / folder).mkdir(parents=True)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    for number in range(_LABELLED + _UNLABELLED):
        image, labels = _draw(number)
        folder = "imagesTr" if number < _LABELLED else "imagesUn"
        nibabel.save(nibabel.Nifti1Image(image, affine), raw / folder / f"case_{number}_0000.nii.gz")
        if number < _LABELLED:
            nibabel.save(nibabel.Nifti1Image(labels, affine), raw / "labelsTr" / f"case_{number}.nii.gz")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "ball": 1, "hole": 2},
        "numTraining": _LABELLED,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(description))


def _draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright ball with a dark hole, elsewhere in each case: int16 image and uint8 labels."""
    generator = np.random.default_rng(number)
    x, y, z = np.meshgrid(np.arange(_SIZE), np.arange(_SIZE), np.arange(_DEPTH), indexing="ij")
    image = generator.normal(0, 15, x.shape) - 90.0
    image[np.hypot(x - _SIZE / 2, y - _SIZE / 2) < _SIZE * 0.45] += 130
    centre = _SIZE / 2 + generator.uniform(-5, 5, 2)
    distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (3 * (z - _DEPTH / 2)) ** 2)
    labels = np.zeros(x.shape, np.uint8)
    labels[distance < 9] = 1
    labels[distance < 4] = 2
    image[labels == 1] += 200
    image[labels == 2] -= 60
    return image.round().astype(np.int16), labels
