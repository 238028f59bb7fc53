"""LoRAHub: one weight per expert for the whole network, found without gradients (arXiv 2307.13269)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import FusionSpec
from samora_pipeline.models.fusions.fusion import Merge
from samora_pipeline.models.lora import LowRank

BOUND = 1.5
"""no weight leaves [-1.5, 1.5] (sail-sg/lorahub, algorithm.py)"""
EVALUATIONS = 40
"""weights tried (sail-sg/lorahub, example.py)"""
PENALTY = 0.05
"""of the mean absolute weight, added to the few-shot loss (sail-sg/lorahub, algorithm.py)"""


class LoRAHub(Merge):
    """A = sum w_i A_i and B = sum w_i B_i, so that the delta B A also holds products across experts (its code).

    The weights w are the same on every block and no parameters: a stage that trains finds them by search
    (``hubs`` and ``set_weights``). They start equal, at 1/E.
    """

    weights: Tensor

    def __init__(self, spec: FusionSpec, *, num_experts: int, dim: int, window: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.full((num_experts,), 1 / num_experts))

    def forward(self, experts: Sequence[LowRank]) -> LowRank:
        """The factors of the experts to their weighted sums, of the same rank."""
        weights = self.weights.to(experts[0].q_a.dtype)
        stacked = (torch.stack(parts) for parts in zip(*experts, strict=True))
        return LowRank(*(torch.einsum("e,eij->ij", weights, parts) for parts in stacked))


def hubs(module: nn.Module) -> list[LoRAHub]:
    """All of them below ``module``, in order."""
    return [child for child in module.modules() if isinstance(child, LoRAHub)]


def set_weights(fusions: Iterable[LoRAHub], weights: Sequence[float]) -> None:
    """Give all blocks the same weights, one per expert, levels from high to low."""
    for fusion in fusions:
        fusion.weights.copy_(torch.as_tensor(weights, dtype=fusion.weights.dtype))
