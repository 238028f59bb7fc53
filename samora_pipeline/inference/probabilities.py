"""Probabilities on disk: one Blosc2 array per case, written slab by slab while the case is predicted.

``blosc2.open(path)`` gives float16 [K,X,Y,Z] on the raw grid. The entries of its ``vlmeta``: ``names`` (of the K
outputs), ``regions`` (whether each output is a sigmoid of its own; otherwise the K sum to 1) and ``affine`` (4 x 4,
voxel to RAS mm).

Shapes: K output maps; X Y Z raw axes; B slices of a chunk, H W rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import blosc2
import numpy as np
from torch import Tensor

from samora_pipeline.contracts.labels import BACKGROUND, LabelScheme
from samora_pipeline.contracts.stored_case import SliceGeometry
from samora_pipeline.files import atomic_path
from samora_pipeline.imaging.preprocessor import to_raw_grid

SUFFIX = "_probabilities.b2nd"

Write = Callable[[int, Tensor], None]


@contextmanager
def probability_writer(path: Path | None, labels: LabelScheme, geometry: SliceGeometry) -> Iterator[Write]:
    """Yield a function that takes the first slice and the probabilities (B,K,H,W) of each chunk.

    The file gets its name when all is written. Without a path nothing is kept.
    """
    if path is None:
        yield discard
        return
    names = list(labels.names) if labels.regions else [BACKGROUND, *labels.names]
    axis = geometry.permutation[0]
    slices = geometry.raw_shape[axis]
    chunk = [1, *geometry.raw_shape]
    chunk[1 + axis] = 1
    with atomic_path(path) as temporary:
        array = blosc2.empty(
            (len(names), *geometry.raw_shape), dtype=np.float16, chunks=chunk, urlpath=str(temporary), mode="w"
        )
        array.schunk.vlmeta["names"] = names
        array.schunk.vlmeta["regions"] = labels.regions
        array.schunk.vlmeta["affine"] = [list(row) for row in geometry.raw_affine]

        def write(start: int, probabilities: Tensor) -> None:
            stop = start + len(probabilities)
            where = slice(slices - stop, slices - start) if geometry.flips[0] else slice(start, stop)
            slab = to_raw_grid(probabilities.half().transpose(0, 1).cpu().numpy(), geometry)
            array[(slice(None),) * (1 + axis) + (where,)] = slab

        yield write


def discard(start: int, probabilities: Tensor) -> None:
    """The ``Write`` that keeps nothing."""
