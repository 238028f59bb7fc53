"""The public ImageNet-21k weights of R50+ViT-B_16 (an .npz of JAX arrays) into the encoder of TransUNet.

Kernels of convolutions are (height, width, in, out), those of the attention (in, heads, width) or (heads, width, out).
The class token, its position and what follows the encoder have no place in TransUNet.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.models.transunet import TransUNet
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.sam_checkpoint import LoadReport, check_names, misfit

_PART = "encoder of TransUNet"
_ENCODER = ("resnet.", "patches.", "positions", "blocks.", "norm.")
"""how the names of our encoder begin"""
_DROPPED = frozenset({"cls", "pre_logits", "head"})
_POSITIONS = "Transformer/posembed_input/pos_embedding"
_BLOCK = r"Transformer/encoderblock_\1"
_ATTENTION = f"{_BLOCK}/MultiHeadDotProductAttention_1"
# Our modules, their numbers in the ResNet counted from 1 as theirs are, and their places.
_PLACES = {
    r"resnet\.root": "conv_root",
    r"resnet\.root_norm": "gn_root",
    r"resnet\.stages\.(\d+)\.(\d+)\.convolutions\.(\d)": r"block\1/unit\2/conv\3",
    r"resnet\.stages\.(\d+)\.(\d+)\.norms\.(\d)": r"block\1/unit\2/gn\3",
    r"resnet\.stages\.(\d+)\.(\d+)\.shortcut\.1": r"block\1/unit\2/conv_proj",
    r"resnet\.stages\.(\d+)\.(\d+)\.shortcut\.2": r"block\1/unit\2/gn_proj",
    r"patches": "embedding",
    r"blocks\.(\d+)\.norm1": f"{_BLOCK}/LayerNorm_0",
    r"blocks\.(\d+)\.norm2": f"{_BLOCK}/LayerNorm_2",
    r"blocks\.(\d+)\.linear1": f"{_BLOCK}/MlpBlock_3/Dense_0",
    r"blocks\.(\d+)\.linear2": f"{_BLOCK}/MlpBlock_3/Dense_1",
    r"blocks\.(\d+)\.self_attn\.out_proj": f"{_ATTENTION}/out",
    r"blocks\.(\d+)\.self_attn": f"{_ATTENTION}/query",
    r"norm": "Transformer/encoder_norm",
}
_NORMS = re.compile(r"gn|norm", re.IGNORECASE)


def load_hybrid(network: TransUNet, path: Path) -> LoadReport:
    """Read the encoder's weights from ``path``; the decoder keeps its random start.

    Positions of another grid are interpolated linearly, corners on corners, as TransUNet's code does.

    Raises:
        AssetError, DataError: as ``read_weights``; ``E-WEIGHT-06`` when an array is missing, too many or of another
            size, in which case nothing is written.
    """
    read = {name: array for name, array in read_weights(path).items() if name.partition("/")[0] not in _DROPPED}
    own = {name: tensor for name, tensor in network.state_dict().items() if name.startswith(_ENCODER)}
    sources = {name: _sources(name) for name in own}
    check_names({name for several in sources.values() for name in several}, read, _PART)
    found = {name: _converted(read, sources[name], tensor) for name, tensor in own.items()}
    network.load_state_dict(found, strict=False)
    resized = () if read[_POSITIONS].shape[1] == own["positions"].shape[1] + 1 else ("positions",)
    loaded = tuple(name for name in own if name not in resized)
    return LoadReport(loaded, resized, kept=tuple(name for name in network.state_dict() if name not in own))


def _sources(name: str) -> tuple[str, ...]:
    """The arrays that a tensor of ours is made of; those of query, key and value stand in one."""
    if name == "positions":
        return (_POSITIONS,)
    module, _, leaf = name.rpartition(".")
    counted = re.sub(r"\d+", lambda number: str(int(number[0]) + 1), module) if "resnet" in module else module
    matches = ((re.fullmatch(ours, counted), theirs) for ours, theirs in _PLACES.items())
    place = next(match.expand(theirs) for match, theirs in matches if match)
    kind = "scale" if _NORMS.search(place.rpartition("/")[2]) else "kernel"
    whole = f"{place}/{'bias' if leaf.endswith('bias') else kind}"
    if not leaf.startswith("in_proj"):
        return (whole,)
    return tuple(whole.replace("/query/", f"/{one}/") for one in ("query", "key", "value"))


def _converted(read: Mapping[str, Tensor], names: tuple[str, ...], own: Tensor) -> Tensor:
    """Arrays as one tensor of the shape of ``own``."""
    if names == (_POSITIONS,):
        return _resized(read[_POSITIONS], own)
    shape = torch.Size((len(own) // len(names), *own.shape[1:]))
    return torch.cat([_in_our_order(name, read[name], shape) for name in names])


def _in_our_order(name: str, array: Tensor, shape: torch.Size) -> Tensor:
    """An array with the last axis first (``E-WEIGHT-06`` where it is not of ``shape`` then); heads are one axis."""
    if len(shape) == 4 and array.ndim == 4:
        array = array.permute(3, 2, 0, 1)
    elif len(shape) < 4 and array.numel() == shape.numel():
        array = array.reshape(shape[::-1])
        array = array.mT if array.ndim == 2 else array
    if array.shape != shape:
        raise misfit(_PART, f"{name} of {tuple(array.shape)}", f"{tuple(shape)} with the last axis first")
    return array


def _resized(positions: Tensor, own: Tensor) -> Tensor:
    """Positions (1,1+L,D), the first that of the class token, on the grid of ``own`` (1,l,D)."""
    old, new = (round(count**0.5) for count in (positions.shape[1] - 1, own.shape[1]))
    if old**2 != positions.shape[1] - 1 or positions.shape[2] != own.shape[2]:
        raise misfit(_PART, f"positions of {tuple(positions.shape)}", f"(1,1+L,{own.shape[2]}) of a square grid")
    grid = positions[:, 1:].mT.reshape(1, -1, old, old)
    resized = functional.interpolate(grid, (new, new), mode="bilinear", align_corners=True)
    return resized.flatten(2).mT
