"""HL-Attn: the experts of a block fused step by step through cross-attention (SAMora, section 3.3, Eq. 6-8).

Shapes: B batch, H W token grid, D width of the block, E experts, d = min(128, D) width inside, 8 heads.
"""

from __future__ import annotations

import torch
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.model_spec import FusionSpec
from samora_pipeline.models.fusions.fusion import Fusion

HEADS = 8
MAX_WIDTH = 128
EPS = 1e-6


class CrossAttention(nn.Module):
    """Eq. 8 with eight heads: the higher level asks (Q), the lower level answers (K, V).

    Both inputs are normalised without parameters. With ``window`` the attention stays inside the windows of the
    block it belongs to; padding at the border is never attended to. 394,368 parameters for D = 768.
    """

    def __init__(self, dim: int, window: int, *, output_at_zero: bool) -> None:
        super().__init__()
        width = min(MAX_WIDTH, dim) // HEADS * HEADS
        self.window = window
        self.q = nn.Linear(dim, width)
        self.k = nn.Linear(dim, width)
        self.v = nn.Linear(dim, width)
        self.out = nn.Linear(width, dim)
        if output_at_zero:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """``high`` and ``low`` (B,H,W,D) to (B,H,W,D)."""
        asking = functional.layer_norm(high, high.shape[-1:], eps=EPS)
        answering = functional.layer_norm(low, low.shape[-1:], eps=EPS)
        q, k, v = self.q(asking), self.k(answering), self.v(answering)
        size = (q.shape[1], q.shape[2])
        if self.window == 0 or max(size) <= self.window:
            mixed = _attend(q, k, v, None)
        else:
            mixed = self._attend_in_windows(q, k, v, size)
        output: Tensor = self.out(mixed)
        return output

    def _attend_in_windows(self, q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor:
        whole = torch.ones(1, *size, 1, device=q.device)
        inside, padded = window_partition(whole, self.window)
        real = inside.flatten(1).bool().repeat(q.shape[0], 1)[:, None, None, :]
        q, k, v = (window_partition(part, self.window)[0] for part in (q, k, v))
        joined: Tensor = window_unpartition(_attend(q, k, v, real), self.window, padded, size)
        return joined


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Multi-head attention over the tokens of each (n,h,w,d); ``mask`` (n,1,1,h*w) is true for keys that count."""
    n, h, w, d = q.shape
    q, k, v = (part.reshape(n, h * w, HEADS, d // HEADS).transpose(1, 2) for part in (q, k, v))
    mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return mixed.transpose(1, 2).reshape(n, h, w, d)


class HLAttention(Fusion):
    """Hierarchical fusion of two or three levels.

    The query is always the higher level, and what comes out of a step keeps the level of its query. ``order`` gives
    the ranks of image, patch and pixel (Table 4): the two levels of rank 1 are fused first, then comes rank 2.

    - ``2-1-1``: patch asks pixel; image asks the result.
    - ``1-2-1``: image asks pixel; the result (image) asks patch.
    - ``1-1-2``: image asks patch; the result (image) asks pixel.

    With two levels there is one step. Residual ``delta``: the features are e_i = E_i - F and a step adds its query's
    e to its output, so that training starts from the highest expert. Residual ``paper``: the features are E_i, and
    a step's output is the attention alone (Eq. 6-8 as printed), so that training starts from the base. For either
    start, every output projection that reaches the block's output by additions alone begins at zero: the last one
    and, with ``delta``, also the first where its result goes on as a query. 9,464,832 parameters on SAM ViT-B.

    Raises:
        ValueError: not two or three experts.
    """

    def __init__(self, spec: FusionSpec, *, num_experts: int, dim: int, window: int) -> None:
        super().__init__()
        if num_experts not in (2, 3):
            raise ValueError(f"HL-Attn fuses two or three experts, not {num_experts}")
        self.delta = spec.residual == "delta"
        ranks = [int(rank) for rank in spec.order.split("-")] if num_experts == 3 else [1, 1]
        self.high, self.low = (level for level, rank in enumerate(ranks) if rank == 1)
        self.late = ranks.index(2) if 2 in ranks else None
        result_is_query = self.late is not None and self.late > self.high
        first_at_zero = self.late is None or (self.delta and result_is_query)
        self.first = CrossAttention(dim, window, output_at_zero=first_at_zero)
        self.second = None if self.late is None else CrossAttention(dim, window, output_at_zero=True)

    def forward(self, base: Tensor, experts: Tensor) -> Tensor:
        """F (B,H,W,D) and E_i (E,B,H,W,D) to the fused signal (B,H,W,D)."""
        features = experts - base if self.delta else experts
        fused = self._step(self.first, features[self.high], features[self.low])
        if self.second is None or self.late is None:
            return fused
        late = features[self.late]
        return self._step(self.second, late, fused) if self.late < self.high else self._step(self.second, fused, late)

    def _step(self, attention: nn.Module, high: Tensor, low: Tensor) -> Tensor:
        attended: Tensor = attention(high, low)
        return high + attended if self.delta else attended
