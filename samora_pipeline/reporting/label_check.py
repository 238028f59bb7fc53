"""A picture for the eye: do labels lie on their image voxel by voxel, whatever the two headers say?"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.imaging.volume import Volume, labels_to_slices, slice_geometry, to_slices
from samora_pipeline.reporting.overlays import below, save, written
from samora_pipeline.reporting.painting import frame_around, organs_layer, sheet

# Of the slices that hold labels, in the order of their position.
_SHARES = (0.25, 0.5, 0.75)
_SIDE = 340


def draw_label_check(path: Path, image: Volume, label: Volume, title: str) -> None:
    """Write a PNG of three axial slices with all labels, both arrays laid over each other by index.

    Raises:
        ValueError: when the two differ in shape.
    """
    if image.grid.shape != label.grid.shape:
        raise ValueError(f"image {image.grid.shape} and label {label.grid.shape} differ in shape")
    geometry = slice_geometry(image.grid, "axial")
    slices, _ = to_slices((image,), "axial")
    labels = labels_to_slices(label, geometry)
    held = np.flatnonzero(labels.any(axis=(1, 2)))
    held = held if held.size else np.arange(len(labels))
    chosen = [int(held[round(share * (held.size - 1))]) for share in _SHARES]
    low, high = np.percentile(slices[chosen], (0.5, 99.5))
    shown = np.clip((slices[chosen, 0] - low) / (max(high, low + 1) - low), 0, 1).astype(np.float32)
    scheme = LabelScheme({str(value): (int(value),) for value in np.unique(labels[labels > 0])})
    frame = frame_around(np.ones(shown.shape[1:], dtype=np.bool_), geometry.spacing[1] / geometry.spacing[2], _SIDE)
    tiles = [
        (f"slice {index}", organs_layer(frame, labels[index], scheme, numbered=False).on(frame.scan(one)))
        for index, one in zip(chosen, shown, strict=True)
    ]
    drawn = sheet(tiles, len(tiles))
    save(path, below([written(title, drawn.width, bold=True), drawn]), ())
