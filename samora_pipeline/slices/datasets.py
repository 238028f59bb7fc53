"""From stored slices to batches: which slices, in which order, and as tensors at the network's resolution.

Shapes: B batch, C channels, N the network's input size in pixels.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import slices_seen
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.intensity import normalize
from samora_pipeline.imaging.resampling import InPlaneMap
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.slices.store import StoredSlices

DEFAULT_MEMORY = 4 << 30
"""Bytes of decoded slices that a source keeps: 40,000 images or 20,000 labelled images of one channel at 224 pixels."""

_LEVELS = 65535


@dataclass(frozen=True, order=True)
class SliceId:
    """One stored slice; ``index`` counts along the stored slice axis."""

    case: str
    index: int


def labelled_ids(selection: Selection, folder: Path) -> list[SliceId]:
    """List the slices of a labelled selection, by case and index; ``folder`` is the dataset's slices folder.

    Raises:
        DataError: ``E-STORE-01`` a case is not preprocessed, ``E-SPLIT-06`` a listed slice does not exist.
    """
    ids = []
    for case in sorted(selection.cases):
        count = len(StoredSlices.open(folder, case))
        indices = sorted(selection.slices.get(case, range(count)))
        if indices and not 0 <= indices[0] <= indices[-1] < count:
            found = f'slices {indices[0]} to {indices[-1]} of "{case}" in the split "{selection.split}"'
            fix = "the list belongs to another copy of the data; use a drawn split such as 10pct_cases"
            raise DataError("E-SPLIT-06", count=count - 1, found=found, fix=fix)
        ids += [SliceId(case, index) for index in indices]
    return ids


class UnlabelledSource(Protocol):
    """What the unlabelled stages read from; ``channels`` is C."""

    channels: int

    def __len__(self) -> int:
        """The number of slices."""

    def keys(self, indices: Sequence[int]) -> list[str]:
        """Names that seed what is drawn for each slice."""

    def images(self, indices: Sequence[int]) -> Tensor:
        """Images (B,C,N,N) float32 in [0,1]."""


class LabelledSource(UnlabelledSource, Protocol):
    """What stage 2 reads from: slices, or whole volumes with another axis."""

    def targets(self, indices: Sequence[int]) -> Tensor:
        """Label values (B,N,N) int64; -1 where they are ignored."""


class SliceSource:
    """Slices of one dataset as tensors of ``input_size`` (N) pixels a side, numbered in the order of ``ids``.

    An image holds the channels of a slice and of its ``neighbours`` on each side, slice by slice in the order of the
    volume; beyond the ends the last slice is repeated. Each slice is decoded once and kept in memory, images in 16 bits
    and targets in 16 bits, until ``memory`` bytes are used; the others are read again each time. What is read does not
    depend on what is kept.
    """

    def __init__(
        self,
        folder: Path,
        ids: Sequence[SliceId],
        plans: Plans,
        input_size: int,
        scheme: LabelScheme | None = None,
        *,
        neighbours: int = 0,
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        self.ids = tuple(ids)
        self.plans = plans
        self.input_size = input_size
        self.neighbours = neighbours
        self.channels = len(plans.channel_names) * slices_seen(neighbours)
        self._folder = folder
        self._scheme = scheme
        self._free = memory
        self._stores: dict[str, tuple[StoredSlices, InPlaneMap]] = {}
        self._images: dict[SliceId, npt.NDArray[np.uint16]] = {}
        self._targets: dict[SliceId, npt.NDArray[np.int16]] = {}

    def __len__(self) -> int:
        return len(self.ids)

    def keys(self, indices: Sequence[int]) -> list[str]:
        """Names of slices (dataset/case/index), which seed what is drawn for each of them."""
        return [f"{self.plans.dataset}/{self.ids[i].case}/{self.ids[i].index}" for i in indices]

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return images (B,C,N,N), float32 in [0,1], exact to 1/65535.

        Raises:
            DataError: ``E-STORE-..`` a case is missing or damaged.
        """
        size, own = self.input_size, len(self.plans.channel_names)
        names = [name for index in indices for name in self._window(self.ids[index])]
        batch = np.empty((len(names), own, size, size), dtype=np.float32)
        for row, name in zip(batch, names, strict=True):
            np.divide(self._kept(self._images, name, self._read_image), np.float32(_LEVELS), out=row)
        return torch.from_numpy(batch).view(len(indices), self.channels, size, size)

    def targets(self, indices: Sequence[int]) -> Tensor:
        """Return targets (B,N,N), int64: class indices, with regions label values; -1 where labels are ignored.

        Raises:
            DataError: ``E-STORE-..`` a case is missing, damaged or without labels.
            ValueError: the source was made without a label scheme.
        """
        batch = np.empty((len(indices), self.input_size, self.input_size), dtype=np.int64)
        for row, index in zip(batch, indices, strict=True):
            row[:] = self._kept(self._targets, self.ids[index], self._read_target)
        return torch.from_numpy(batch)

    def _window(self, name: SliceId) -> list[SliceId]:
        """The slices that are seen with one, itself included."""
        if self.neighbours == 0:
            return [name]
        last = len(self._stored(name.case)[0]) - 1
        around = range(name.index - self.neighbours, name.index + self.neighbours + 1)
        return [SliceId(name.case, min(max(index, 0), last)) for index in around]

    def _kept(self, kept: dict[SliceId, Any], name: SliceId, read: Any) -> Any:
        if name in kept:
            return kept[name]
        array = read(name)
        if array.nbytes <= self._free:
            self._free -= array.nbytes
            kept[name] = array
        return array

    def _read_image(self, name: SliceId) -> npt.NDArray[np.uint16]:
        stored, way = self._stored(name.case)
        rules = self.plans.intensity.value
        image = way.image(normalize(stored.image(name.index), rules, stored.record.intensities))
        return np.rint(image * _LEVELS).astype(np.uint16)

    def _read_target(self, name: SliceId) -> npt.NDArray[np.int16]:
        if self._scheme is None:
            raise ValueError("targets need a label scheme")
        stored, way = self._stored(name.case)
        return self._scheme.encode(way.labels(stored.labels(name.index))).astype(np.int16)

    def _stored(self, case: str) -> tuple[StoredSlices, InPlaneMap]:
        if case not in self._stores:
            stored = StoredSlices.open(self._folder, case)
            stored.require_axis(self.plans.slice_axis.value)
            self._stores[case] = stored, InPlaneMap.for_case(stored.record, self.plans, self.input_size)
        return self._stores[case]


class JoinedSource:
    """Several datasets as one unlabelled pool of slices of one size, numbered one after the other.

    Raises:
        ValueError: when the datasets differ in channels.
    """

    def __init__(self, sources: Sequence[SliceSource]) -> None:
        self._sources = tuple(sources)
        self._ends = list(accumulate(len(source) for source in sources))
        channels = {source.plans.dataset: source.channels for source in sources}
        if len(set(channels.values())) > 1:
            raise ValueError(f"datasets with different numbers of channels: {channels}")
        self.channels = sources[0].channels

    def __len__(self) -> int:
        return self._ends[-1]

    def keys(self, indices: Sequence[int]) -> list[str]:
        """Names of slices (dataset/case/index)."""
        return [source.keys([local])[0] for source, local in map(self._find, indices)]

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return images (B,C,N,N), float32 in [0,1]."""
        first = self._sources[0]
        batch = torch.empty(len(indices), self.channels, first.input_size, first.input_size)
        for row, (source, local) in zip(batch, map(self._find, indices), strict=True):
            row[:] = source.images([local])[0]
        return batch

    def _find(self, index: int) -> tuple[SliceSource, int]:
        number = bisect_right(self._ends, index)
        return self._sources[number], index - (self._ends[number - 1] if number else 0)


@dataclass(frozen=True)
class EpochOrder:
    """The global batches of each epoch: a pure function of (seed, epoch), whatever the number of ranks.

    Each rank takes its part of a batch with ``distributed.own_share``. The last batch may be smaller; none is
    dropped.
    """

    count: int
    batch_size: int
    seed: int

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def batches(self, epoch: int) -> list[list[int]]:
        """All batches of indices of an epoch, in order."""
        order = np.random.default_rng(derived_seed(self.seed, epoch, "order")).permutation(self.count).tolist()
        return [order[start : start + self.batch_size] for start in range(0, self.count, self.batch_size)]
