"""What a fusion of experts is.

Shapes: B batch, H W token grid, D width, E experts.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol

from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import FusionSpec


class Fusion(nn.Module):
    """Joins the experts of one block; there is one instance per block."""

    @abstractmethod
    def forward(self, base: Tensor, experts: Tensor) -> Tensor:
        """From the base branch F (B,H,W,D) and the experts' branches (E,B,H,W,D), levels from high to low, to what
        is added to F, (B,H,W,D) (Eq. 7).
        """


class FusionFactory(Protocol):
    """Makes the fusion of one block; a subclass of Fusion with this constructor is one."""

    def __call__(self, spec: FusionSpec, *, num_experts: int, dim: int, window: int) -> Fusion:
        """``dim`` is the block's output width, ``window`` the side of its attention window in tokens (0: global)."""
        ...
