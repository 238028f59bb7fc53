"""A picture for the eye: do labels lie on their image voxel by voxel, whatever the two headers say?

Shape legend: X, Y, Z raw axes; H, W rows and columns of a slice.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from skimage.measure import find_contours

from samora_pipeline.files import atomic_path
from samora_pipeline.imaging.preprocessor import labels_to_slices, slice_geometry, to_slices
from samora_pipeline.imaging.volume import Volume
from samora_pipeline.reporting.palette import organ_style

# Of the slices that hold labels, in the order of their position.
_SHARES = (0.25, 0.5, 0.75)
_SIZE = (10.5, 4.2)
_DPI = 100


def draw_label_check(path: Path, image: Volume, label: Volume, title: str) -> None:
    """Write a PNG of three axial slices with the outlines of all labels, both arrays laid over each other by index.

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
    figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor="white", layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes, index in zip(figure.subplots(1, len(chosen)), chosen, strict=True):
        _, rows, columns = geometry.spacing
        axes.imshow(slices[index, 0], cmap="gray", vmin=low, vmax=max(high, low + 1), aspect=rows / columns)
        axes.set_title(f"slice {index}", fontsize=9)
        axes.set_axis_off()
        _draw_outlines(axes, labels[index])
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def _draw_outlines(axes: Axes, labels: npt.NDArray[np.uint8]) -> None:
    for value in np.unique(labels[labels > 0]):
        style = organ_style(int(value) - 1)
        for contour in find_contours(np.pad(labels == value, 1).astype(np.float32), 0.5):
            axes.plot(contour[:, 1] - 1, contour[:, 0] - 1, color=style.colour, linestyle=style.line, linewidth=1.3)
