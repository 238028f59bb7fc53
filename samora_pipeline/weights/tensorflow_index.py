"""What is in a TensorFlow checkpoint, from its .index file and without TensorFlow.

The file is a table of sorted strings (the LevelDB table format): blocks of entries whose keys share prefixes, an index
block that points to them, and a footer. Keys are variable names, values are BundleEntryProto messages with type,
shape, and place in the data file (tensorflow/core/protobuf/tensor_bundle.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FOOTER = 48
_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_TRAILER = 5
"""bytes after a block: its compression and a checksum"""
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE = 1, 2, 3, 4, 5
_DIM, _DIM_SIZE = 2, 1

_Message = dict[int, list[int | bytes]]


@dataclass(frozen=True)
class Entry:
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
    if len(content) < _FOOTER or not content.endswith(_MAGIC):
        raise ValueError("not a table of sorted strings")
    try:
        _, _, offset, size = _varints(content[-_FOOTER:], 4)
        entries: dict[str, bytes] = {}
        for _, handle in _block(content, offset, size):
            start, length = _varints(handle, 2)
            entries |= {key.decode(): value for key, value in _block(content, start, length)}
        entries.pop("", None)  # the header of the checkpoint
        return {name: _entry(value) for name, value in entries.items()}
    except (IndexError, struct.error, TypeError, UnicodeDecodeError) as error:
        raise ValueError("a damaged table of sorted strings") from error


def data_length(index: Path) -> int:
    """Return how many bytes the data file of a checkpoint with one shard has at least.

    Raises:
        ValueError: as ``read_index``.
    """
    return max((entry.offset + entry.size for entry in read_index(index).values()), default=0)


def _block(content: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of one block; a key gives only what differs from the one before it."""
    if offset + size + _TRAILER > len(content) or content[offset + size] != 0:
        raise ValueError("a block that is cut short or compressed")
    block = content[offset : offset + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    position, end, key = 0, size - 4 * (restarts + 1), b""
    while position < end:
        shared, position = _varint(block, position)
        own, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + own]
        position += own
        yield key, block[position : position + length]
        position += length


def _entry(value: bytes) -> Entry:
    fields = _message(value)
    dims = _message(_bytes(fields, _SHAPE)).get(_DIM, [])
    shape = tuple(_number(_message(dim), _DIM_SIZE) for dim in dims if isinstance(dim, bytes))
    dtype, shard, offset, size = (_number(fields, number) for number in (_DTYPE, _SHARD, _OFFSET, _SIZE))
    return Entry(dtype, shape, shard, offset, size)


def _message(content: bytes) -> _Message:
    """The fields of a protocol buffer message by number."""
    fields: _Message = {}
    position = 0
    while position < len(content):
        tag, position = _varint(content, position)
        value: int | bytes
        match tag & 7:
            case 0:
                value, position = _varint(content, position)
            case 1:
                value, position = content[position : position + 8], position + 8
            case 2:
                length, position = _varint(content, position)
                value, position = content[position : position + length], position + length
            case 5:
                value, position = content[position : position + 4], position + 4
            case kind:
                raise ValueError(f"a field of kind {kind}")
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _number(fields: _Message, number: int) -> int:
    """A number field; absent means 0."""
    value = fields.get(number, [0])[-1]
    if not isinstance(value, int):
        raise ValueError("bytes in place of a number")
    return value


def _bytes(fields: _Message, number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise ValueError("a number in place of bytes")
    return value


def _varints(content: bytes, count: int) -> list[int]:
    values, position = [], 0
    for _ in range(count):
        value, position = _varint(content, position)
        values.append(value)
    return values


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """A number in groups of seven bits, least first, and the position behind it."""
    value = shift = 0
    while True:
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
