"""Why a session ends before its training does: a signal, or the end of its time. What is left follows with ``-c``."""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch

from samora_pipeline import distributed
from samora_pipeline.command_line import EXIT_OUT_OF_TIME, STOP_SIGNALS
from samora_pipeline.run_log import logger

_SIGNALS = (*STOP_SIGNALS, signal.SIGINT)
_HOUR = 3600.0


@dataclass(frozen=True)
class TimeLimit:
    """When a session has to end: ``at`` by ``time.monotonic``, which is ``hours`` after its beginning."""

    hours: float = math.inf
    at: float = math.inf

    @classmethod
    def of(cls, hours: float | None, *, since: float) -> TimeLimit:
        """The limit of a session that began at ``since`` (of ``time.monotonic``); None: there is none."""
        return cls() if hours is None else cls(hours, since + hours * _HOUR)

    def has(self, seconds: float) -> bool:
        """Whether that much time is left."""
        return time.monotonic() + seconds < self.at

    def leave(self, before: str, resume_command: str, device: torch.device) -> None:
        """End the process, on all ranks, where no time is left for a stage that is about to begin.

        Raises:
            SystemExit: 75.
        """
        if agreed_code(0, over=not self.has(0.0), device=device):
            if distributed.is_main():
                logger.info("stopped before %s: %s; resume with:\n  %s", before, self, resume_command)
            sys.exit(EXIT_OUT_OF_TIME)

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Context that a process leaves with SystemExit 75 when the time is over, whatever it does; for work that is
        kept case by case. Only the main thread of a POSIX system can be interrupted so.
        """
        if math.isinf(self.at) or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGALRM, self._over)
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, self.at - time.monotonic()))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)

    def _over(self, _number: int, _frame: FrameType | None) -> None:
        logger.info("stopped: %s; the same command with -c resumes", self)
        sys.exit(EXIT_OUT_OF_TIME)

    def __str__(self) -> str:
        return f"the time of --max-hours {self.hours:g} is used up"


class Interruption:
    """Context that notes the first stop signal in ``received``; a second one acts at once, as without us.

    Python allows handlers in the main thread only; in another thread the context does nothing.
    """

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


def agreed_code(received: int, *, over: bool, device: torch.device) -> int:
    """The exit code with which all ranks end at this step, 0 to go on.

    A signal reaches the ranks at different steps, and their clocks differ: what one of them has met ends all. A signal
    comes before the time.

    Args:
        received: the number of this rank's signal, 0 for none.
        over: whether this rank has no time left.
        device: of the ranks' messages.
    """
    met = [received == number for number in _SIGNALS] + [over]
    if distributed.world_size() > 1:
        met = [total > 0 for total in distributed.sum_over_ranks(torch.tensor(met, device=device).float()).tolist()]
    codes = [*(128 + number for number in _SIGNALS), EXIT_OUT_OF_TIME]
    return next((code for code, there in zip(codes, met, strict=True) if there), 0)
