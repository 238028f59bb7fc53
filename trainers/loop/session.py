"""Steps without a finite loss and gradient: left out with all that they would have changed, counted and named."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from samora_pipeline.errors import DataError
from samora_pipeline.run_log import Line, logger
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


_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Context that notes the first of the two signals in ``received``; a second one acts at once, as without us.

    Python allows handlers in the main thread only; in another thread the context does nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


PROGRESS_FILE = "progress.png"
_SHARE = 100
"""a new picture is due when this many times the last one's drawing time has passed"""
_FIRST = 60.0
"""seconds before the first one"""


class ProgressPicture:
    """Draws ``progress.png`` at most one hundredth of the time, and once at the end."""

    def __init__(self, path: Path, title: str) -> None:
        self._path, self._title = path, title
        self._due = time.monotonic() + _FIRST

    def update(self, history: Sequence[Line], *, last: bool = False) -> None:
        """Draw ``history`` if a picture is due or this is the ``last`` epoch."""
        begun = time.monotonic()
        if not history or (begun < self._due and not last):
            return
        from samora_pipeline.reporting.curves import draw_progress

        draw_progress(history, self._path, self._title)
        done = time.monotonic()
        self._due = done + _SHARE * (done - begun)
