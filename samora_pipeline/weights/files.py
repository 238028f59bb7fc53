"""Files of weights, from others and our own, read without executing anything: .pth, .pt, .safetensors and .index."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.weights.catalog import is_web_page
from samora_pipeline.weights.tensorflow_checkpoint import is_index, read_variables

WRAPPERS = ("model", "state_dict")


def read_weights(path: Path, wanted: Callable[[str], bool] = bool) -> dict[str, Tensor]:
    """Read the named tensors of a file onto the CPU.

    A dict that holds them under ``model`` or ``state_dict`` is unwrapped; where several dicts lie side by side (the
    converted SimCLRv2 checkpoints: ``resnet`` and ``head``) each name is led by that of its dict and a dot.

    Args:
        path: .pth, .pt or .safetensors, or the .index file of a TensorFlow checkpoint with its .data file beside it.
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
            return read_variables(path, device, wanted)
        content = _load_safetensors(path, device) if path.suffix == ".safetensors" else _load_torch(path, device)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from error
    return _named_tensors(path, content)


def _load_safetensors(path: Path, device: str) -> object:
    if device == "cpu":
        return load_file(path)
    with safe_open(path, "pt") as file:
        names = file.keys()
        return {name: torch.empty(file.get_slice(name).get_shape(), device=device) for name in names}


def _load_torch(path: Path, device: str) -> object:
    # weights_only refuses every pickle that names something to call, so a hostile file cannot run code. MAE's files
    # hold the arguments of their training beside the tensors; a Namespace is only a holder of attributes.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content: object = torch.load(path, map_location=device, weights_only=True)
    return content


def _named_tensors(path: Path, content: object) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise _not_weights(path, f"a {type(content).__name__} instead of named tensors")
    if all(isinstance(part, dict) for part in content.values()):
        content = {f"{group}.{name}": tensor for group, part in content.items() for name, tensor in part.items()}
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor):
            raise _not_weights(path, f"{name} is a {type(tensor).__name__}, not a tensor")
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
