"""Whole volumes brought to a network's grid and back, as one small matrix per axis; the field of view stays whole.

Images are averaged by a triangle as wide as a voxel of the coarser grid, so that a voxel stands for all that it covers:
with a fraction of the voxels their noise would else stay what it was. Labels are the nearest voxel's, logits linear.

Shapes: S slices, C channels, H W rows and columns of the source grid; D h w the network's; K output maps.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.model_spec import Volume
from samora_pipeline.imaging.resampling import AxisMap, Matrix, label_indices, logit_operator

UNLABELLED = -1


@dataclass(frozen=True)
class VolumeMap:
    """The way of a volume of slices (S,H,W) to the network's input (D,h,w), and of logits back."""

    source: Volume
    target: Volume

    @classmethod
    def between(cls, source: Sequence[int], target: Sequence[int]) -> Self:
        """The way from one shape to another."""
        return cls(*((int(a), int(b), int(c)) for a, b, c in (source, target)))

    def image(self, read: Callable[[int], npt.NDArray[np.float32]], channels: int) -> npt.NDArray[np.float32]:
        """Average slices [C,H,W] in [0,1], given one by one by their index, to a volume [C,D,h,w] in [0,1]."""
        planes, rows, columns = (mean_operator(*sides) for sides in zip(self.source, self.target, strict=True))
        volume = np.zeros((channels, *self.target), dtype=np.float32)
        for index in range(self.source[0]):
            small = rows @ read(index) @ columns.T
            for plane in np.flatnonzero(planes[:, index]):
                volume[:, plane] += planes[plane, index] * small
        return np.clip(volume, 0.0, 1.0, out=volume)

    def labels(
        self, read: Callable[[int], npt.NDArray[Any]], labelled: Sequence[int] | None = None
    ) -> npt.NDArray[np.int64]:
        """Bring label values [H,W], given slice by slice, to [D,h,w] by the nearest voxel.

        ``labelled``: the slices that have labels, None for all. Each of them is shown in the plane that it lies in,
        the last one where several do; planes without any are -1.
        """
        planes, rows, columns = (
            label_indices(AxisMap(own, side, 0, side, side)) for own, side in zip(self.source, self.target, strict=True)
        )
        shown = dict(enumerate(planes.tolist()))
        if labelled is not None and len(labelled) < self.source[0]:
            shown = {int((index + 0.5) * self.target[0] / self.source[0]): index for index in labelled}
        volume = np.full(self.target, UNLABELLED, dtype=np.int64)
        for plane, index in shown.items():
            volume[plane] = read(index)[rows[:, None], columns]
        return volume

    def logit_operators(self) -> tuple[Matrix, Matrix, Matrix]:
        """(planes [S,D], rows [H,h], columns [W,w]) of linear interpolation of logits to the source grid."""
        planes, rows, columns = (
            logit_operator(AxisMap(own, side, 0, side, side), side)
            for own, side in zip(self.source, self.target, strict=True)
        )
        return planes, rows, columns


@lru_cache(maxsize=256)
def mean_operator(source: int, target: int) -> Matrix:
    """The matrix [target, source] of triangle means; where the target is finer, of linear interpolation."""
    width = max(1.0, source / target)
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    # Beyond the edges the outermost voxels go on, as they do for slices.
    reach = int(np.ceil(width))
    places = np.arange(-reach, source + reach)
    weights = np.maximum(0.0, 1 - np.abs(places - centres[:, None]) / width)
    operator = np.zeros((target, source))
    np.add.at(operator.T, places.clip(0, source - 1), weights.T)
    result: Matrix = (operator / operator.sum(1, keepdims=True)).astype(np.float32)
    result.setflags(write=False)
    return result
