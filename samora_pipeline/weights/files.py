"""Files of weights, from others and our own, read without executing anything: .pth, .pt, .safetensors, .npz and .index.

TensorFlow checkpoints (.index and .data files) are read without TensorFlow. The .index file is a table of sorted keys
(the LevelDB table format): blocks of entries whose keys share prefixes, an index block that points to them, and a
footer. Keys are variable names, values are BundleEntryProto messages with type, shape, and place in the data file
(tensorflow/core/protobuf/tensor_bundle.proto).
"""

import argparse
import math
import pickle
import struct
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from samora_pipeline.errors import AssetError, DataError, SamoraError
from samora_pipeline.weights.catalog import is_web_page

_WRAPPERS = ("model", "state_dict")
_FOOTER = 48
_MAGIC = struct.pack("<Q", 0xDB4775248B80FB57)
_TRAILER = 5
"""bytes after a block: its compression and a checksum"""
_DTYPE, _SHAPE, _SHARD, _OFFSET, _SIZE = 1, 2, 3, 4, 5
_DIM, _DIM_SIZE = 2, 1
_FLOAT = 1
"""TensorFlow's type number of float32"""
_ITEM = 4


def read_weights(path: Path, wanted: Callable[[str], bool] = bool) -> dict[str, Tensor]:
    """Read the named tensors of a file onto the CPU.

    A dict that holds them under ``model`` or ``state_dict`` is unwrapped; where several dicts lie side by side (the
    converted SimCLRv2 checkpoints: ``resnet`` and ``head``) each name is led by that of its dict and a dot.

    Args:
        path: .pth, .pt, .safetensors or .npz, or the .index file of a TensorFlow checkpoint with its .data file
            beside it.
        wanted: whether a variable of a TensorFlow checkpoint is loaded, by its name; these hold several networks.

    Raises:
        AssetError: ``E-WEIGHT-05`` when there is no such file.
        DataError: ``E-WEIGHT-07`` when it cannot be read as weights: truncated, a web page, another kind of file, or
            a pickle that wants to do more than hold tensors; ``E-WEIGHT-08`` when values are not finite.
    """
    tensors = _read(path, "cpu", wanted)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError("E-WEIGHT-08", path=path, found=f"NaN or infinity in {name}")
    return tensors


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read only the names and shapes of the tensors in a file, named as by ``read_weights``; no values are loaded.

    Raises:
        AssetError, DataError: as ``read_weights``, without the check for values that are not finite.
    """
    return {name: tuple(tensor.shape) for name, tensor in _read(path, "meta").items()}


def _read(path: Path, device: str, wanted: Callable[[str], bool] = bool) -> dict[str, Tensor]:
    if not path.is_file():
        raise AssetError("E-WEIGHT-05", found=f"no file {path}")
    try:
        if is_index(path):
            return _read_variables(path, device, wanted)
        load = {".safetensors": _load_safetensors, ".npz": _load_arrays}.get(path.suffix, _load_torch)
        content = load(path, device)
    except (SamoraError, PermissionError):
        raise
    except Exception as error:  # a damaged pickle makes torch raise almost anything
        raise _unreadable(path, error) from error
    return _named_tensors(path, content)


def _load_safetensors(path: Path, device: str) -> object:
    if device == "cpu":
        return load_file(path)
    with safe_open(path, "pt") as file:
        names = file.keys()
        return {name: torch.empty(file.get_slice(name).get_shape(), device=device) for name in names}


def _load_arrays(path: Path, device: str) -> object:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]).to(device) for name in arrays.files}


def _load_torch(path: Path, device: str) -> object:
    # weights_only refuses every pickle that names something to call, so a hostile file cannot run code. MAE's files
    # hold the arguments of their training beside the tensors; a Namespace is only a holder of attributes.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content: object = torch.load(path, map_location=device, weights_only=True)
    return content


def _named_tensors(path: Path, content: object) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise _not_weights(path, f"a {type(content).__name__} instead of named tensors")
    if all(isinstance(part, dict) for part in content.values()):
        content = {f"{group}.{name}": tensor for group, part in content.items() for name, tensor in part.items()}
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            raise _not_weights(path, f"{name} is a {type(tensor).__name__}, not a tensor")
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise _not_weights(path, f"{name} is no plain tensor ({tensor.layout})")
    return content


def _not_weights(path: Path, found: str) -> DataError:
    return DataError("E-WEIGHT-07", path=path, found=f"{path}: {found}")


def _unreadable(path: Path, error: Exception) -> DataError:
    size = f"{path.stat().st_size:,} bytes"
    if is_web_page(path):
        return _not_weights(path, f"{size} of a web page, saved in place of the download")
    with path.open("rb") as stream:
        is_archive = stream.read(2) == b"PK"
    if isinstance(error, pickle.UnpicklingError) and is_archive:
        return _not_weights(path, "a pickle that asks for more than tensors; it was not opened further")
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return _not_weights(path, f"{size}, cut short or of another kind ({reason[:100]})")


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


def _read_variables(index: Path, device: str, wanted: Callable[[str], bool]) -> dict[str, Tensor]:
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
