"""The values of a TensorFlow checkpoint, from its .index and .data files and without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.weights.tensorflow_index import Entry, read_index

_FLOAT = 1
"""TensorFlow's type number of float32"""
_ITEM = 4


def read_variables(index: Path, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read the float32 variables whose names are wanted; what else is in the checkpoint is never loaded.

    Raises:
        AssetError: ``E-WEIGHT-05`` when a .data file is not beside the index.
        DataError: ``E-WEIGHT-07`` a damaged or shortened file, ``E-WEIGHT-08`` values that are not finite.
    """
    try:
        entries = {name: entry for name, entry in read_index(index).items() if wanted(name)}
    except ValueError as error:
        raise _damaged(index, str(error)) from error
    return {
        name: _checked(index, name, _value(index, name, entry))
        for name, entry in entries.items()
        if entry.dtype == _FLOAT
    }


def _value(index: Path, name: str, entry: Entry) -> Tensor:
    path = _data_file(index, entry.shard)
    count = int(np.prod(entry.shape, dtype=np.int64))
    with path.open("rb") as stream:
        stream.seek(entry.offset)
        content = stream.read(entry.size)
    if len(content) != entry.size or entry.size != _ITEM * count:
        raise _damaged(path, f"{name} has {len(content):,} bytes of {_ITEM * count:,}")
    return torch.from_numpy(np.frombuffer(content, dtype="<f4").reshape(entry.shape).copy())


def _checked(index: Path, name: str, value: Tensor) -> Tensor:
    if not bool(torch.isfinite(value).all()):
        raise DataError("E-WEIGHT-08", path=index, found=f"NaN or infinity in {name}", fix="get the file again")
    return value


def _data_file(index: Path, shard: int) -> Path:
    found = sorted(index.parent.glob(f"{index.stem}.data-{shard:05d}-of-*"))
    if not found:
        raise AssetError(
            "E-WEIGHT-05",
            what=f"the values of {index.name} are not there",
            found=f"no {index.stem}.data-{shard:05d}-of-* in {index.parent}",
            expected="the .data file of the same checkpoint beside its .index file",
            fix="get both files: samora_weights list  shows their sources",
        )
    return found[0]


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(
        "E-WEIGHT-07",
        what=f"{path.name} is not a whole TensorFlow checkpoint",
        found=f"{path}: {reason}",
        expected="the .index and .data files of one checkpoint",
    )
