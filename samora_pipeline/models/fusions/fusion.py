"""What a fusion of experts is: of the outputs of their branches, or of their weights.

Shapes: B batch, H W token grid, D width, E experts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol

from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import FusionSpec
from samora_pipeline.models.lora import LowRank


class Fusion(nn.Module):
    """Joins the experts of one block; there is one instance per block.

    ``only_weighs``: it does nothing but weigh the experts, so while they have no effect it has nothing to learn.
    """

    only_weighs: ClassVar[bool] = False

    @abstractmethod
    def forward(self, base: Tensor, experts: Tensor) -> Tensor:
        """From the base branch F (B,H,W,D) and the experts' branches (E,B,H,W,D), levels from high to low, to what
        is added to F, (B,H,W,D) (Eq. 7).
        """


class Merge(nn.Module):
    """Joins the experts of one block by their weights: a single LoRA takes their place, and a single branch is run.

    The residual form and the scope of a FusionSpec are of no matter to it.
    """

    @abstractmethod
    def forward(self, experts: Sequence[LowRank]) -> LowRank:
        """From the factors of the experts, levels from high to low, to the factors of the one that is run."""


class FusionFactory(Protocol):
    """Makes the fusion of one block; a subclass of Fusion or of Merge with this constructor is one."""

    def __call__(self, spec: FusionSpec, *, num_experts: int, dim: int, window: int) -> Fusion | Merge:
        """``dim`` is the block's output width, ``window`` the side of its attention window in tokens (0: global)."""
        ...
