"""What may be written of a case beside its label map: its probabilities and how unsure they are, voxel by voxel.

``CASE_probabilities.b2nd``, a Blosc2 array, is written slab by slab while the case is predicted. ``blosc2.open(path)``
gives float16 [K,X,Y,Z] on the raw grid. The entries of its ``vlmeta``: ``names`` (of the K outputs), ``regions``
(whether each output is a sigmoid of its own; otherwise the K sum to 1) and ``affine`` (4 x 4, voxel to RAS mm).

``CASE_uncertainty.nii.gz`` holds the entropy of the averaged probabilities as uint8 on the raw grid, in percent of the
largest possible entropy: 0 where all members agree with certainty, 100 where all outputs are equally probable. It is
the entropy of the *mean* over folds and views, so it holds both the doubt of each member and their disagreement. With
regions, each a sigmoid of its own, a voxel is as unsure as its most unsure region.

Shapes: K output maps; X Y Z raw axes; B slices of a chunk, H W rows and columns.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import blosc2
import numpy as np
import torch
from torch import Tensor

from samora_pipeline.contracts.labels import BACKGROUND, LabelScheme
from samora_pipeline.contracts.stored_case import SliceGeometry
from samora_pipeline.files import atomic_path
from samora_pipeline.imaging.volume import Grid, to_raw_grid

PROBABILITIES = "_probabilities.b2nd"
UNCERTAINTY = "_uncertainty.nii.gz"

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


@contextmanager
def uncertainty_writer(path: Path | None, geometry: SliceGeometry, *, regions: bool) -> Iterator[Write]:
    """Yield a function that takes the first slice and the probabilities (B,K,H,W) of each chunk.

    The file is written when all chunks are there. Without a path nothing is computed.
    """
    if path is None:
        yield discard
        return
    slices, rows, columns = (geometry.raw_shape[axis] for axis in geometry.permutation)
    stack = np.empty((slices, rows, columns), dtype=np.uint8)

    def write(start: int, probabilities: Tensor) -> None:
        stack[start : start + len(probabilities)] = uncertainty(probabilities, regions=regions).cpu().numpy()

    yield write
    # Only here: a predictor of slices, which teaches or is timed, needs no readers of volumes.
    from samora_pipeline.imaging.files import write_volume

    write_volume(path, to_raw_grid(stack, geometry), Grid(geometry.raw_shape, geometry.raw_affine))


def uncertainty(probabilities: Tensor, *, regions: bool) -> Tensor:
    """Probabilities (B,K,H,W) to percent of the largest entropy, (B,H,W) uint8."""
    if regions:
        entropy = (torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)).amax(1)
        largest = math.log(2)
    else:
        entropy = torch.special.entr(probabilities).sum(1)
        largest = math.log(probabilities.shape[1])
    percent: Tensor = entropy.mul_(100 / largest).round_().clamp_(0, 100)
    return percent.to(torch.uint8)
