"""TensorFlow checkpoints (.index and .data files), read without TensorFlow.

The .index file is a table of sorted strings (the LevelDB table format): blocks of entries whose keys share prefixes, an
index block that points to them, and a footer. Keys are variable names, values are BundleEntryProto messages with type,
shape, and place in the data file (tensorflow/core/protobuf/tensor_bundle.proto).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from samora_pipeline.errors import AssetError

_FOOTER = 48
_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_TRAILER = 5
"""bytes after a block: its compression and a checksum"""
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE = 1, 2, 3, 4, 5
_DIM, _DIM_SIZE = 2, 1
_FLOAT = 1
"""TensorFlow's type number of float32"""
_ITEM = 4


class Entry(NamedTuple):
    """A variable: its TensorFlow type number, shape, and place in the data file of its shard, in bytes."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


def is_index(path: Path) -> bool:
    """Whether a file ends like a table of sorted strings."""
    with path.open("rb") as stream:
        length = stream.seek(0, 2)
        stream.seek(max(0, length - len(_MAGIC)))
        return length >= _FOOTER and stream.read() == _MAGIC


def read_index(path: Path) -> dict[str, Entry]:
    """Return the variables of a checkpoint by name.

    Raises:
        ValueError: the file is damaged, or compressed (TensorFlow writes it plain).
    """
    content = path.read_bytes()
    footer = BytesIO(content[-_FOOTER:])
    try:
        _, _, offset, size = (_varint(footer) for _ in range(4))
        entries: dict[str, bytes] = {}
        for handle in _block(content, offset, size).values():
            place = BytesIO(handle)
            entries |= {key.decode(): value for key, value in _block(content, _varint(place), _varint(place)).items()}
        entries.pop("", None)  # the header of the checkpoint
        return {name: _entry(value) for name, value in entries.items()}
    except (LookupError, struct.error, ValueError) as error:
        raise ValueError(f"a damaged table of sorted strings: {error}") from error


def data_length(index: Path) -> int:
    """Return how many bytes the data file of a checkpoint with one shard has at least.

    Raises:
        ValueError: as ``read_index``.
    """
    return max((entry.offset + entry.size for entry in read_index(index).values()), default=0)


def read_variables(index: Path, device: str, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
    """Read the float32 variables whose names are wanted; what else is in the checkpoint is never loaded.

    On the device ``meta`` all variables of wanted names have their shape and no values.

    Raises:
        AssetError: ``E-WEIGHT-05`` when a .data file is not beside the index.
        ValueError: a damaged or shortened file.
    """
    entries = {name: entry for name, entry in read_index(index).items() if wanted(name)}
    if device == "meta":
        return {name: torch.empty(entry.shape, device=device) for name, entry in entries.items()}
    return {name: _value(index, name, entry) for name, entry in entries.items() if entry.dtype == _FLOAT}


def _value(index: Path, name: str, entry: Entry) -> Tensor:
    pattern = f"{index.stem}.data-{entry.shard:05d}-of-*"
    path = next(iter(sorted(index.parent.glob(pattern))), None)
    if path is None:
        raise AssetError(
            "E-WEIGHT-05",
            found=f"no {pattern} in {index.parent}",
            expected="the .data file of the same checkpoint beside its .index file",
            fix="get both files: samora_weights list  shows their sources",
        )
    count = math.prod(entry.shape)
    if entry.size != _ITEM * count or entry.offset + entry.size > path.stat().st_size:
        raise ValueError(f"{path.name} does not hold the {_ITEM * count:,} bytes of {name}")
    return torch.from_numpy(np.fromfile(path, "<f4", count, offset=entry.offset).reshape(entry.shape))


def _block(content: bytes, offset: int, size: int) -> dict[bytes, bytes]:
    """Keys and values of one block; a key gives only what differs from the one before it."""
    if offset + size + _TRAILER > len(content) or content[offset + size] != 0:
        raise ValueError("a block that is cut short or compressed")
    block = content[offset : offset + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    stream, end = BytesIO(block), size - 4 * (restarts + 1)
    key, entries = b"", {}
    while stream.tell() < end:
        shared, own, length = (_varint(stream) for _ in range(3))
        key = key[:shared] + stream.read(own)
        entries[key] = stream.read(length)
    return entries


def _entry(value: bytes) -> Entry:
    numbers, parts = _message(value)
    dims = _message(parts[_SHAPE][-1])[1].get(_DIM, []) if _SHAPE in parts else []
    shape = tuple(_message(dim)[0].get(_DIM_SIZE, 0) for dim in dims)
    dtype, shard, offset, size = (numbers.get(field, 0) for field in (_DTYPE, _SHARD, _OFFSET, _SIZE))
    return Entry(dtype, shape, shard, offset, size)


def _message(content: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """The fields of a protocol buffer message by number: numbers, of which the last one counts, and bytes."""
    stream, numbers, parts = BytesIO(content), {}, dict[int, list[bytes]]()
    while stream.tell() < len(content):
        field, kind = divmod(_varint(stream), 8)
        if kind == 0:
            numbers[field] = _varint(stream)
        else:
            length = _varint(stream) if kind == 2 else {1: 8, 5: 4}[kind]
            parts.setdefault(field, []).append(stream.read(length))
    return numbers, parts


def _varint(stream: BytesIO) -> int:
    """A number in groups of seven bits, least first."""
    value = 0
    for shift in range(0, 63, 7):
        (byte,) = stream.read(1)
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
    raise ValueError("a number of more than 63 bits")
