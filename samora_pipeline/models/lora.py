"""LoRA on the query and the value of a fused qkv projection, as SAMed applies it.

Shapes: D width of the input, D' width of query, key and value (D' = D except where Hiera changes stage), r rank.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class LowRank(NamedTuple):
    """The factors of a delta of q and of v: A (r,D) and B (D',r); the delta of the weight is B A."""

    q_a: Tensor
    q_b: Tensor
    v_a: Tensor
    v_b: Tensor

    def adapt(self, qkv: Tensor, x: Tensor) -> Tensor:
        """Add the deltas to the frozen projection ``qkv`` (...,3D') of x (...,D)."""
        q, k, v = qkv.chunk(3, dim=-1)
        q = q + functional.linear(functional.linear(x, self.q_a), self.q_b)
        v = v + functional.linear(functional.linear(x, self.v_a), self.v_b)
        return torch.cat((q, k, v), dim=-1)


class LoRA(nn.Module):
    """One expert on one block: a rank-r delta for q and another for v; k is left alone.

    A is drawn uniformly (Kaiming, a = sqrt 5), B is zero and nothing is scaled, so a new expert changes nothing
    (SAMora, section 3.2, with the settings of SAMed). 4 r D parameters for D' = D: 147,456 on SAM ViT-B at rank 4.
    """

    def __init__(self, dim_in: int, dim_out: int, rank: int) -> None:
        super().__init__()
        self.q_a = nn.Parameter(torch.empty(rank, dim_in))
        self.q_b = nn.Parameter(torch.zeros(dim_out, rank))
        self.v_a = nn.Parameter(torch.empty(rank, dim_in))
        self.v_b = nn.Parameter(torch.zeros(dim_out, rank))
        nn.init.kaiming_uniform_(self.q_a, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.v_a, a=math.sqrt(5))

    @property
    def factors(self) -> LowRank:
        """Its weights."""
        return LowRank(self.q_a, self.q_b, self.v_a, self.v_b)
