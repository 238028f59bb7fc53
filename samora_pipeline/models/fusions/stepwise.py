"""Fusions that join two levels at a time, in one of the orders of Table 4.

Shapes: B batch, H W token grid, D width of the block, E experts.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from torch import Tensor, nn

from samora_pipeline.models.fusions.fusion import Fusion


class StepFactory(Protocol):
    """Makes one step: a module from the higher and the lower level, (B,H,W,D) each, to (B,H,W,D)."""

    def __call__(self, dim: int, window: int, *, output_at_zero: bool) -> nn.Module:
        """``dim`` and ``window`` as in ``Joining``."""


class StepwiseFusion(Fusion):
    """Hierarchical fusion of two or three levels.

    The query is always the higher level, and what comes out of a step keeps the level of its query. ``order`` gives
    the ranks of image, patch and pixel (Table 4): the two levels of rank 1 are fused first, then comes rank 2.

    - ``2-1-1``: patch attends to pixel; image attends to the result.
    - ``1-2-1``: image attends to pixel; the result (image) attends to patch.
    - ``1-1-2``: image attends to patch; the result (image) attends to pixel.

    With two levels there is one step. Residual ``delta``: the features are e_i = E_i - F and a step adds its query's
    e to its output, so that training starts from the highest expert. Residual ``paper``: the features are E_i, and
    a step's output is all (Eq. 6-8 as printed), so that training starts from the base. For either start, every
    step whose output reaches the block's output by additions alone begins with an output of zero: the last one
    and, with ``delta``, also the first where its result goes on as a query.

    Raises:
        ValueError: not two or three experts.
    """

    make_step: ClassVar[StepFactory]

    @dataclass(frozen=True)
    class Options:
        """``order`` of the levels and ``residual``, see above."""

        order: Literal["2-1-1", "1-2-1", "1-1-2"] = "2-1-1"
        residual: Literal["delta", "paper"] = "delta"

    def __init__(self, options: Options, *, num_experts: int, dim: int, window: int) -> None:
        super().__init__(options, num_experts=num_experts, dim=dim, window=window)
        if num_experts not in (2, 3):
            raise ValueError(f"{type(self).__name__} fuses two or three experts, not {num_experts}")
        self.delta = options.residual == "delta"
        ranks = [int(rank) for rank in options.order.split("-")] if num_experts == 3 else [1, 1]
        self.high, self.low = (level for level, rank in enumerate(ranks) if rank == 1)
        self.late = ranks.index(2) if 2 in ranks else None
        result_is_query = self.late is not None and self.late > self.high
        first_at_zero = self.late is None or (self.delta and result_is_query)
        self.first = self.make_step(dim, window, output_at_zero=first_at_zero)
        self.second = None if self.late is None else self.make_step(dim, window, output_at_zero=True)

    def forward(self, base: Tensor, experts: Tensor) -> Tensor:
        """F (B,H,W,D) and E_i (E,B,H,W,D) to the fused signal (B,H,W,D)."""
        features = experts - base if self.delta else experts
        fused = self._step(self.first, features[self.high], features[self.low])
        if self.second is None or self.late is None:
            return fused
        late = features[self.late]
        return self._step(self.second, late, fused) if self.late < self.high else self._step(self.second, fused, late)

    def _step(self, step: nn.Module, high: Tensor, low: Tensor) -> Tensor:
        output = step(high, low)
        return high + output if self.delta else output
