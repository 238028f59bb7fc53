"""LAC: linear arithmetic composition of the experts' weights (Zhang et al., NeurIPS 2023, arXiv 2306.14870)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from samora_pipeline.contracts.model_spec import FusionSpec
from samora_pipeline.models.fusions.fusion import Merge
from samora_pipeline.models.lora import LowRank


class LAC(Merge):
    """The mean of the experts' deltas: W + 1/E sum B_i A_i, as one LoRA of rank E r. It has nothing to learn.

    The weights of a composition sum to one and are equal unless somebody chooses them. It is the deltas that are
    averaged; averaging A and B apart, as LoRAHub does, would also multiply one expert's B with another's A.
    """

    def __init__(self, spec: FusionSpec, *, num_experts: int, dim: int, window: int) -> None:
        super().__init__()

    def forward(self, experts: Sequence[LowRank]) -> LowRank:
        """The factors of E experts of rank r to one of rank E r, whose product is the mean of theirs."""
        share = 1 / len(experts)
        return LowRank(
            torch.cat([expert.q_a for expert in experts]),
            torch.cat([expert.q_b * share for expert in experts], dim=1),
            torch.cat([expert.v_a for expert in experts]),
            torch.cat([expert.v_b * share for expert in experts], dim=1),
        )
