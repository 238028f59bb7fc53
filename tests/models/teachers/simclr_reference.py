"""SimCLRv2's network written out layer by layer over TensorFlow's variable names, channels last.

The walk numbers convolutions and norms in the order in which TensorFlow creates them, which is how the variables of a
public checkpoint are named. The arithmetic comes from an ``Arithmetic``: here literal loops and float64, in the
TensorFlow test that library's own operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Array = NDArray[Any]
Network = TypeVar("Network", bound=torch.nn.Module)


class Arithmetic(Protocol):
    def convolve(self, x: Any, kernel: Array, stride: int) -> Any: ...
    def pool(self, x: Any, size: int, stride: int, kind: str) -> Any: ...
    def zero_pad_end(self, x: Any) -> Any: ...


class Literal:
    """Pooling cell by cell over what exists (``SAME`` by TensorFlow's rule), convolution with explicit padding."""

    def convolve(self, x: Array, kernel: Array, stride: int) -> Array:
        pad = (kernel.shape[0] - 1) // 2
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        image, weight = torch.from_numpy(padded).permute(0, 3, 1, 2), torch.from_numpy(kernel).permute(3, 2, 0, 1)
        return functional.conv2d(image.double(), weight.double(), stride=stride).permute(0, 2, 3, 1).numpy()

    def pool(self, x: Array, size: int, stride: int, kind: str) -> Array:
        batch, rows, columns, channels = x.shape
        out = np.empty((batch, -(-rows // stride), -(-columns // stride), channels))
        before = [max(0, (-(-side // stride) - 1) * stride + size - side) // 2 for side in (rows, columns)]
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                top, left = i * stride - before[0], j * stride - before[1]
                cells = x[:, max(0, top) : top + size, max(0, left) : left + size]
                out[:, i, j] = cells.max(axis=(1, 2)) if kind == "max" else cells.mean(axis=(1, 2))
        return out

    def zero_pad_end(self, x: Array) -> Array:
        return np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))


class Walk:
    """One pass through the network; counters say which variable comes next."""

    def __init__(self, variables: Mapping[str, Array], arithmetic: Arithmetic, prefix: str = "base_model/") -> None:
        self.variables, self.arithmetic, self.prefix = variables, arithmetic, prefix
        self.convolutions = self.norms = 0
        self.used: set[str] = set()

    def _next(self, kind: str, number: int, leaf: str) -> Array:
        name = f"{self.prefix}{kind}{f'_{number}' if number else ''}/{leaf}"
        self.used.add(name)
        return self.variables[name]

    def convolution(self, x: Any, stride: int = 1) -> Any:
        self.convolutions += 1
        return self.arithmetic.convolve(x, self._next("conv2d", self.convolutions - 1, "kernel"), stride)

    def norm(self, x: Any) -> Any:
        self.norms += 1
        parts = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (self._next("batch_normalization", self.norms - 1, part) for part in parts)
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def activated(self, x: Any, stride: int = 1) -> Any:
        y = self.norm(self.convolution(x, stride))
        return y * (np.asarray(y) > 0)

    def block(self, x: Any, stride: int, first: bool) -> Any:
        shortcut = x
        if first:
            pooled = x if stride == 1 else self.arithmetic.zero_pad_end(x)
            pooled = self.arithmetic.pool(pooled, 2, stride, "average")
            if stride > 1:  # VALID: cells that start on the added row or column do not exist
                pooled = pooled[:, : (x.shape[1] - 1) // 2 + 1, : (x.shape[2] - 1) // 2 + 1]
            shortcut = self.norm(self.convolution(pooled))
        y = self.activated(x)
        streams = self.activated(y, stride)
        half = streams.shape[-1] // 2
        one, two = streams[..., :half], streams[..., half:]
        mean = np.asarray(one + two).mean(axis=(1, 2), keepdims=True)
        scores = np.exp(np.asarray(self.convolution(self.activated(mean))))
        share = scores[..., :half] / (scores[..., :half] + scores[..., half:])
        y = self.norm(self.convolution(one * share + two * (1 - share))) + shortcut
        return y * (np.asarray(y) > 0)

    def maps(self, images: Any, depths: Sequence[int]) -> list[Any]:
        x = self.activated(self.activated(self.activated(images, 2)))
        x = self.arithmetic.pool(x, 3, 2, "max")
        maps = []
        for group, depth in enumerate(depths):
            for block in range(depth):
                x = self.block(x, 2 if block == 0 and group > 0 else 1, first=block == 0)
            maps.append(x)
        return maps


def tensorflow_variables(network: torch.nn.Module, prefix: str = "base_model/") -> dict[str, Array]:
    """Name the encoder's tensors as TensorFlow would, by counting layers in order of creation."""
    variables: dict[str, Array] = {}
    counts = {"conv2d": 0, "batch_normalization": 0}
    for module in network.modules():
        kind = {"Conv2d": "conv2d", "GlobalBatchNorm": "batch_normalization"}.get(type(module).__name__)
        if kind is None:
            continue
        base = f"{prefix}{kind}{f'_{counts[kind]}' if counts[kind] else ''}/"
        counts[kind] += 1
        if kind == "conv2d":
            weight = module.get_parameter("weight").detach().numpy()
            variables[f"{base}kernel"] = np.ascontiguousarray(weight.transpose(2, 3, 1, 0))
            continue
        for leaf, tensor in (("gamma", "weight"), ("beta", "bias")):
            variables[base + leaf] = module.get_parameter(tensor).detach().numpy()
        for leaf, tensor in (("moving_mean", "running_mean"), ("moving_variance", "running_var")):
            variables[base + leaf] = module.get_buffer(tensor).numpy()
    return variables


def randomised(network: Network) -> Network:
    """Give every tensor values that matter: norms are neither identities nor at their start."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if type(module).__name__ == "GlobalBatchNorm":
                module.get_parameter("weight").uniform_(0.5, 1.5, generator=generator)
                if module.get_parameter("bias").requires_grad:
                    module.get_parameter("bias").uniform_(-0.3, 0.3, generator=generator)
                module.get_buffer("running_mean").uniform_(-0.2, 0.2, generator=generator)
                module.get_buffer("running_var").uniform_(0.5, 1.5, generator=generator)
    return network
