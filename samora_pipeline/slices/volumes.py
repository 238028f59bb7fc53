"""From stored slices to whole volumes at a network's resolution; no reader of volumes is needed.

Shapes: B batch, C channels, D planes, H W rows and columns of the network's grid.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import Volume
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.imaging.intensity import normalize
from samora_pipeline.imaging.volume_map import UNLABELLED, VolumeMap
from samora_pipeline.slices.datasets import DEFAULT_MEMORY, labelled_ids
from samora_pipeline.slices.store import StoredSlices

_LEVELS = 65535


class VolumeSource:
    """The cases of a labelled selection as volumes of ``volume`` voxels, in the order of their names.

    Of a case with single labelled slices all planes without one are ignored (-1). Each case is decoded once and kept,
    images and targets in 16 bits, until ``memory`` bytes are used; what is read does not depend on what is kept.

    Raises:
        DataError: ``E-STORE-01`` a case is not preprocessed, ``E-SPLIT-06`` a listed slice does not exist.
    """

    def __init__(
        self,
        folder: Path,
        selection: Selection,
        plans: Plans,
        volume: Volume,
        scheme: LabelScheme,
        *,
        memory: int = DEFAULT_MEMORY,
    ) -> None:
        self._folder, self._plans, self._volume, self._scheme = folder, plans, volume, scheme
        labelled: dict[str, list[int]] = {}
        for one in labelled_ids(selection, folder):
            labelled.setdefault(one.case, []).append(one.index)
        self._labelled = list(labelled.items())
        self.channels = len(plans.channel_names)
        self._extents = torch.tensor([_extents(folder, case) for case in labelled])
        self._free = memory
        self._kept: dict[int, tuple[npt.NDArray[np.uint16], npt.NDArray[np.int16]]] = {}

    def __len__(self) -> int:
        return len(self._labelled)

    def keys(self, indices: Sequence[int]) -> list[str]:
        """Names of volumes (dataset/case), which seed what is drawn for each of them."""
        return [f"{self._plans.dataset}/{self._labelled[index][0]}" for index in indices]

    def images(self, indices: Sequence[int]) -> Tensor:
        """Return volumes (B,C,D,H,W), float32 in [0,1], exact to 1/65535.

        Raises:
            DataError: ``E-STORE-..`` a case is missing or damaged.
        """
        images = np.stack([self._read(index)[0] for index in indices])
        return torch.from_numpy(np.divide(images, np.float32(_LEVELS), dtype=np.float32))

    def targets(self, indices: Sequence[int]) -> Tensor:
        """Return targets (B,D,H,W), int64, as those of ``SliceSource``; -1 where labels are ignored, or not known.

        Raises:
            DataError: ``E-STORE-..`` a case is missing, damaged or without labels.
        """
        return torch.from_numpy(np.stack([self._read(index)[1] for index in indices]).astype(np.int64))

    def extents(self, indices: Sequence[int]) -> Tensor:
        """Return the extents of the scans in mm along planes, rows and columns, (B,3) float32."""
        return self._extents[list(indices)]

    def _read(self, index: int) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.int16]]:
        if index in self._kept:
            return self._kept[index]
        case, labelled = self._labelled[index]
        stored = StoredSlices.open(self._folder, case)
        way = VolumeMap.between(stored.record.shape, self._volume)
        rules, measured = self._plans.intensity.value, stored.record.intensities
        image = way.image(lambda slice_: normalize(stored.image(slice_), rules, measured), len(rules))
        values = way.labels(stored.labels, labelled)
        known = values != UNLABELLED
        targets = np.where(known, self._scheme.encode(values.clip(0).astype(np.uint8)), UNLABELLED)
        read = np.rint(image * _LEVELS).astype(np.uint16), targets.astype(np.int16)
        size = sum(array.nbytes for array in read)
        if size <= self._free:
            self._free -= size
            self._kept[index] = read
        return read


def _extents(folder: Path, case: str) -> list[float]:
    record = StoredSlices.open(folder, case).record
    return [count * mm for count, mm in zip(record.shape, record.geometry.spacing, strict=True)]
