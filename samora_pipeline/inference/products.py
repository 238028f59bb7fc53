"""Matrix products of a CPU in single precision by the faster of two libraries.

torch's builds for x86 multiply with MKL, numpy's with OpenBLAS. On CPUs of AMD the latter is the faster one for the
shapes of a ViT (``benchmarks/products.py``).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from samora_pipeline.inference.allocation import BLAS_THREADS

_CPUINFO = Path("/proc/cpuinfo")


def openblas_is_faster() -> bool:
    """Whether this is a CPU of AMD, numpy multiplies with OpenBLAS, and with one thread for each product."""
    if os.environ.get(BLAS_THREADS) != "1" or not _CPUINFO.is_file():
        return False
    vendor = "AuthenticAMD" in _CPUINFO.read_text(encoding="utf-8", errors="replace")[:2000]
    return vendor and "openblas" in np.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]


def use_openblas(network: nn.Module) -> None:
    """Replace every linear layer by one that multiplies with OpenBLAS. No gradients; weights must not change."""
    for parent in list(network.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                setattr(parent, name, OpenBlasLinear(layer))


class OpenBlasLinear(nn.Linear):
    """A linear layer that multiplies with numpy wherever torch has a single thread too; else it is the plain one."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self._transposed = layer.weight.detach().numpy().T

    def forward(self, x: Tensor) -> Tensor:
        """x (...,D) to (...,D')."""
        if torch.get_num_threads() > 1:
            return super().forward(x)
        product = torch.from_numpy(np.matmul(x.reshape(-1, self.in_features).numpy(), self._transposed))
        if self.bias is not None:
            product += self.bias
        return product.view(*x.shape[:-1], self.out_features)
