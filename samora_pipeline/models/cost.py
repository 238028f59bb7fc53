"""What training a network needs, counted on the meta device: shapes alone, no memory, a second for the largest."""

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor

from samora_pipeline.contracts.model_spec import NetworkSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.freezing import Part, freeze

_COPIES = 4
"""of what learns: weights, gradients and both moments of Adam"""


class TrainingMemory(NamedTuple):
    """Bytes in single precision: ``fixed`` for weights, gradients and moments, ``per_slice`` for kept activations."""

    fixed: int
    per_slice: int


def training_memory(spec: NetworkSpec, learns: Collection[str]) -> TrainingMemory:
    """Count what a step keeps for its backward pass, for one slice.

    Args:
        spec: of the network.
        learns: the parts that are trained (``models.freezing.Part``); of a network without parts everything is.
    """
    with torch.device("meta"):
        # Without the noise and dropout of training, whose shapes depend on values.
        network = build_network(spec).eval()
        images = torch.empty(1, spec.in_channels, spec.input_size, spec.input_size)
    freeze(network, frozenset(Part(name) for name in learns))
    fixed = sum(tensor.nbytes * (_COPIES if tensor.requires_grad else 1) for tensor in network.parameters())
    weights = {_storage(parameter) for parameter in network.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[_storage(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, _as_it_is):
        network(images)
    saved = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)
    return TrainingMemory(fixed, max(1, saved))


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _as_it_is(tensor: Any) -> Any:
    return tensor
