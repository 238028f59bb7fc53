"""A teacher's features kept on disk, for experts that see the same few views of each slice in every epoch.

``KEY/view_V/BLOCK.npy``: rows of bytes, the feature in float16 and its CRC-32. A block is written at once or not at
all, so an interrupted filling goes on where it stopped; ranks fill blocks in turn.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from samora_pipeline import distributed
from samora_pipeline.errors import DataError
from samora_pipeline.files import atomic_path
from samora_pipeline.run_log import Progress

Rows = npt.NDArray[np.uint8]

BLOCK = 256
"""slices"""
_CRC_BYTES = 4


class TargetStore:
    """Features of ``slices`` slices under ``views`` fixed views, each of one ``shape``."""

    def __init__(self, folder: Path, slices: int, views: int, shape: Sequence[int]) -> None:
        self.folder, self.slices, self.views = folder, slices, views
        self.shape = tuple(shape)
        self._open = lru_cache(maxsize=None)(self._map)

    @property
    def bytes(self) -> int:
        """Its size on disk."""
        return self.slices * self.views * (2 * math.prod(self.shape) + _CRC_BYTES)

    def fill(self, features: Callable[[list[int], int], Tensor], batch: int) -> None:
        """Compute and write what is missing.

        Args:
            features: sample numbers and a view to features (B,*shape).
            batch: samples at a time.

        Raises:
            DataError: ``E-TARGET-01`` a feature that float16 cannot hold.
        """
        todo = [
            (view, start)
            for view in range(self.views)
            for start in range(0, self.slices, BLOCK)
            if not self._path(view, start).is_file()
        ]
        # A block that another rank has written by now would shift this rank's turns, and one be left to nobody.
        distributed.barrier()
        own = todo[distributed.rank() :: distributed.world_size()]
        with Progress("targets", len(own), unit="block", quiet=not own or not distributed.is_main()) as progress:
            for view, start in own:
                indices = list(range(start, min(start + BLOCK, self.slices)))
                parts = [features(indices[i : i + batch], view) for i in range(0, len(indices), batch)]
                self._write(self._path(view, start), torch.cat(parts))
                progress.advance(f"{self.bytes / 2**30:.2f} GiB in all")
        distributed.barrier()

    def read(self, indices: Sequence[int], view: int) -> Tensor:
        """Features (B,*shape), float16.

        Raises:
            DataError: ``E-TARGET-02`` a damaged row.
        """
        values = np.empty((len(indices), math.prod(self.shape)), dtype=np.float16)
        for row, index in zip(values, indices, strict=True):
            stored = self._open(view, index - index % BLOCK)[index % BLOCK]
            content, crc = stored[:-_CRC_BYTES], stored[-_CRC_BYTES:]
            if zlib.crc32(content) != int.from_bytes(crc.tobytes(), "little"):
                raise DataError(
                    "E-TARGET-02",
                    folder=self.folder,
                    found=f"slice {index} in {self._path(view, index - index % BLOCK)}",
                )
            row[:] = content.view(np.float16)
        return torch.from_numpy(values).view(len(indices), *self.shape)

    def _write(self, path: Path, features: Tensor) -> None:
        half = features.detach().to("cpu", torch.float16).flatten(1)
        if not bool(half.isfinite().all()):
            raise DataError("E-TARGET-01", found=f"largest absolute value {float(features.abs().max()):.3g}")
        rows = half.numpy().view(np.uint8)
        crcs = np.array([zlib.crc32(row) for row in rows], dtype="<u4").view(np.uint8).reshape(-1, _CRC_BYTES)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, np.concatenate((rows, crcs), axis=1), allow_pickle=False)

    def _map(self, view: int, start: int) -> Rows:
        mapped: Rows = np.load(self._path(view, start), mmap_mode="r", allow_pickle=False)
        return mapped

    def _path(self, view: int, start: int) -> Path:
        return self.folder / f"view_{view}" / f"{start:08d}.npy"
