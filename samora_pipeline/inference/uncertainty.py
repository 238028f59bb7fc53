"""How unsure a prediction is, voxel by voxel: the entropy of the averaged probabilities.

``CASE_uncertainty.nii.gz`` holds it as uint8 on the raw grid, in percent of the largest possible entropy: 0 where all
members agree with certainty, 100 where all outputs are equally probable. It is the entropy of the *mean* over folds
and views, so it holds both the doubt of each member and their disagreement. With regions, each a sigmoid of its own,
a voxel is as unsure as its most unsure region.

Shapes: B slices, K output maps, H W rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samora_pipeline.contracts.stored_case import SliceGeometry
from samora_pipeline.imaging.files import write_volume
from samora_pipeline.imaging.preprocessor import to_raw_grid
from samora_pipeline.imaging.volume import Grid
from samora_pipeline.inference.probabilities import Write, discard

SUFFIX = "_uncertainty.nii.gz"


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
