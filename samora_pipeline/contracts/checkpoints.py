"""One file per checkpoint: tensors in safetensors, everything else as JSON in its header, and a digest of both."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from samora_pipeline.errors import DataError
from samora_pipeline.files import atomic_path, digest_json

_HEADER = "samora"


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name and the JSON record saved with them."""

    tensors: dict[str, torch.Tensor]
    record: dict[str, Any]


def save_checkpoint(path: Path, tensors: dict[str, torch.Tensor], record: dict[str, Any]) -> None:
    """Write a checkpoint atomically. ``record`` must be JSON-like; tensors are moved to the CPU."""
    own = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    # As it will be read: JSON makes lists of tuples, and texts of keys.
    record = json.loads(json.dumps(record))
    header = {"record": record, "digest": _digest(own), "record_digest": digest_json(record)}
    write_tensors(path, own, {_HEADER: json.dumps(header, sort_keys=True)})


def write_tensors(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous tensors of the CPU in the format of safetensors, atomically.

    Raises:
        ResourceError: ``E-DISK-01``. The library's own writer would hide a full disk behind an error of its own, and
        leave files of random names when it is killed.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(tensors, metadata))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify its digest.

    Raises:
        DataError: ``E-CKPT-01`` missing, ``E-CKPT-02`` damaged or not written by this tool.
    """
    if not path.is_file():
        raise DataError("E-CKPT-01", path=path, found=f"no file {path}")
    try:
        with safe_open(path, framework="pt") as stream:
            header = json.loads((stream.metadata() or {})[_HEADER])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, LookupError, ValueError, TypeError, OSError, RecursionError) as error:
        raise _damaged(path, str(error)) from error
    record = header.get("record") if isinstance(header, dict) else None
    if not isinstance(record, dict):
        raise _damaged(path, "its header holds no record")
    # Checkpoints of earlier versions have no digest of their record.
    own = digest_json(record)
    if _digest(tensors) != header.get("digest") or own != header.get("record_digest", own):
        raise _damaged(path, "the digest of its content differs from the one written with it")
    return Checkpoint(tensors, record)


def _digest(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _damaged(path: Path, found: str) -> DataError:
    return DataError("E-CKPT-02", path=path, found=f"{path}: {found}")
