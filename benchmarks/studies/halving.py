"""Preprocessed slices at half their resolution along rows and columns: a quarter of the bytes.

Shapes: S slices, C channels, H x W pixels become h x w, half of them rounded up.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.slices.store import StoredSlices, write_case

Array = npt.NDArray[Any]


def halve_case(source: Path, case: str, target: Path, scheme: LabelScheme) -> None:
    """Write a case of the store ``source`` to ``target`` at half the in-plane resolution.

    Intensity statistics stay those of the scan, so that intensities are scaled alike. The record keeps the source's
    digest: runs on halved slices have the keys of runs on whole ones, and are scored on the scans themselves.
    """
    stored = StoredSlices.open(source, case)
    images = np.stack([halve_image(stored.image(index)) for index in range(len(stored))])
    labels = None
    pixels = stored.record.label_pixels
    if stored.labelled:
        labels = np.stack([halve_labels(stored.labels(index)) for index in range(len(stored))])
        counted = {name: np.isin(labels, values).sum(axis=(1, 2)) for name, values in scheme.foreground}
        pixels = {name: tuple(int(value) for value in counted[name]) for name in pixels if name in counted}
    between, rows, columns = stored.record.geometry.spacing
    geometry = replace(stored.record.geometry, spacing=(between, 2 * rows, 2 * columns))
    write_case(target, replace(stored.record, geometry=geometry, label_pixels=pixels), images, labels)


def halve_image(image: Array) -> Array:
    """[C, H, W] to [C, h, w]: means of 2 x 2 pixels, whole numbers rounded."""
    blocks = _blocks(image).astype(np.float64).mean(axis=-1)
    halved: Array = (np.rint(blocks) if image.dtype.kind in "iu" else blocks).astype(image.dtype)
    return halved


def halve_labels(labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """[H, W] to [h, w]: the most frequent of 2 x 2 labels; of equally frequent ones that of the first pixel.

    The first pixel is no part of the shape's inside or outside, so a border does not move to either side on average.
    """
    blocks = _blocks(labels)
    votes = (blocks[..., None] == blocks[..., None, :]).sum(axis=-1)
    first = np.argmax(votes, axis=-1)
    halved: npt.NDArray[np.uint8] = np.take_along_axis(blocks, first[..., None], axis=-1)[..., 0]
    return halved


def _blocks(array: Array) -> Array:
    """[..., H, W] to [..., h, w, 4]; an odd last row or column is repeated."""
    height, width = array.shape[-2:]
    padded = np.pad(array, [(0, 0)] * (array.ndim - 2) + [(0, height % 2), (0, width % 2)], mode="edge")
    rows, columns = padded.shape[-2] // 2, padded.shape[-1] // 2
    split = padded.reshape(*array.shape[:-2], rows, 2, columns, 2)
    return np.moveaxis(split, -3, -2).reshape(*array.shape[:-2], rows, columns, 4)
