"""Steps without a finite loss and gradient: left out with all that they would have changed, counted and named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from samora_pipeline.errors import DataError
from samora_pipeline.run_log import logger
from trainers.loop.state import LoopState

PATIENCE = 20
"""such steps in a row after which a training counts as diverged"""
_SHOWN = 8
"""slices that the console names; log.jsonl has them all"""


class Skipping:
    """Leaves steps out.

    ``buffers`` are what a forward pass itself changes: running statistics that have taken in one NaN hold it for ever,
    although no parameter has moved. ``names`` turns sample numbers into slices.
    """

    def __init__(self, stage: str, buffers: Iterable[Tensor], names: Callable[[list[int]], Sequence[str]]) -> None:
        self._stage, self._names = stage, names
        self._buffers = list(buffers)
        self._kept: list[Tensor] = []
        self._in_a_row = 0

    def before_step(self) -> None:
        """Keep the buffers until it is known whether the step counts."""
        self._kept = [buffer.clone() for buffer in self._buffers]

    def after_finite_step(self) -> None:
        """Nothing is left out."""
        self._in_a_row = 0

    @torch.no_grad()
    def skip(self, state: LoopState, batch: list[int], loss: float, gradient_norm: float) -> None:
        """Undo what the step under way has changed, and note its slices in ``state``.

        Raises:
            DataError: ``E-TRAIN-01`` there was no finite step for too long.
        """
        for buffer, kept in zip(self._buffers, self._kept, strict=True):
            buffer.copy_(kept)
        state.skipped += 1
        self._in_a_row += 1
        names = list(self._names(batch))
        state.skipped_slices = sorted({*state.skipped_slices, *names})
        logger.warning(
            "%s: step %d skipped, not finite (loss %s, gradient norm %s), slices %s",
            self._stage,
            state.step + 1,
            loss,
            gradient_norm,
            _some(names),
        )
        if self._in_a_row >= PATIENCE:
            raise DataError(
                "E-TRAIN-01",
                stage=self._stage,
                found=f"{PATIENCE} steps in a row without a finite loss and gradient, the last with {_some(names)}",
            )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more, see log.jsonl" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
