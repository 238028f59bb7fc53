"""MoLE: a learnable gate on every block that weighs the experts (Mixture of LoRA Experts, arXiv 2404.13628).

Shapes: B batch, H W token grid, D width of the block, E experts.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.part_options import GateOptions
from samora_pipeline.models.fusions.fusion import Fusion

EPS = 1e-6


class MoLE(Fusion):
    """Each image weighs the experts anew: g = softmax(projection of all E_i / tau), and sum g_i e_i is added to F.

    The E_i are normalised without parameters and put side by side. MoLE flattens all tokens before it projects: for
    images a matrix of H W D E rows, bound to one input size (7.1 million numbers per block at 512 px). Here the tokens
    are averaged first, which leaves D E rows. The projection starts at zero, so the gates start equal. tau is
    learnable and starts at 1. Residual ``delta``: e_i = E_i - F, and training starts from the mean of the experts;
    ``paper``: e_i = E_i, as Eq. 7 has it. MoLE's balancing loss is left out, because its weight is not known to us.
    82,992 parameters on SAM ViT-B.
    """

    only_weighs: ClassVar[bool] = True

    Options: ClassVar[type[Any]] = GateOptions

    def __init__(self, options: GateOptions, *, num_experts: int, dim: int, window: int) -> None:
        super().__init__(options, num_experts=num_experts, dim=dim, window=window)
        self.delta = options.residual == "delta"
        self.gate = nn.Linear(num_experts * dim, num_experts)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, base: Tensor, experts: Tensor) -> Tensor:
        """F (B,H,W,D) and E_i (E,B,H,W,D) to the weighted sum (B,H,W,D)."""
        gates = self.gates(experts)
        features = experts - base if self.delta else experts
        return torch.einsum("be,ebhwd->bhwd", gates.to(features.dtype), features)

    def gates(self, experts: Tensor) -> Tensor:
        """E_i (E,B,H,W,D) to the weights (B,E), which sum to one."""
        pooled = functional.layer_norm(experts, experts.shape[-1:], eps=EPS).mean(dim=(2, 3))
        scores = self.gate(pooled.transpose(0, 1).flatten(1)) / self.log_temperature.exp()
        return scores.softmax(dim=-1)
