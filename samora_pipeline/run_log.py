"""What a running stage tells: one JSON line per epoch in log.jsonl, and progress with an ETA on the console.

log.jsonl is the record; other destinations (TensorBoard, a web service) implement ``Sink`` and get the same lines.
"""

import json
import logging
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, Self

from samora_pipeline.errors import AssetError, printable
from samora_pipeline.files import append_text, write_text

logger = logging.getLogger("samora")

Line = dict[str, Any]

_PLAIN_INTERVAL = 10.0
"""seconds between two lines on a console that is not a terminal"""


class Sink(Protocol):
    """A destination for epoch lines. Lines are flat: names to numbers or short texts."""

    def start(self, history: Iterable[Line]) -> None:
        """Make the destination hold exactly ``history``: what a killed process wrote beyond its checkpoint goes."""

    def write(self, line: Line) -> None:
        """Add the line of one epoch."""


class JsonLines:
    """log.jsonl: one object per line, flushed after each epoch."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, history: Iterable[Line]) -> None:
        """Write the file anew from ``history``."""
        write_text(self._path, "".join(_encode(line) for line in history))

    def write(self, line: Line) -> None:
        """Append one line."""
        append_text(self._path, _encode(line))


class TensorBoard:
    """Curves for TensorBoard: every number of a line under ``STAGE/NAME``, with the epoch as its step.

    Raises:
        AssetError: ``E-LOG-01`` the extra ``tensorboard`` is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise AssetError("E-LOG-01", found=str(error)) from error
        self._folder, self._writer_of = folder, SummaryWriter
        self._writer: Any = None

    def start(self, history: Iterable[Line]) -> None:
        """Write the event file anew from ``history``."""
        for stale in self._folder.glob("events.out.tfevents.*"):
            stale.unlink()
        self._writer = self._writer_of(str(self._folder))
        for line in history:
            self.write(line)

    def write(self, line: Line) -> None:
        """Add one point to every curve."""
        numbers = {name: value for name, value in line.items() if isinstance(value, int | float)}
        epoch = numbers.pop("epoch")
        for name, value in numbers.items():
            self._writer.add_scalar(f"{line['stage']}/{name}", value, epoch)
        self._writer.flush()


class Progress:
    """A progress bar with ETA on a terminal; elsewhere plain lines, at most one every ten seconds, and the last.

    ``following``: seconds that what comes after is predicted to take, so that the end of it all is shown too.
    """

    def __init__(
        self,
        title: str,
        total: int,
        done: int = 0,
        unit: str = "step",
        *,
        quiet: bool = False,
        following: float = 0.0,
    ) -> None:
        self._title, self._total, self._done, self._unit = printable(title), total, done, unit
        self._following = following
        self._begun_at, self._begun = time.monotonic(), done
        self._said_at = float("-inf")
        self._quiet = quiet
        self._bar: Any = None

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, initial=self._done, desc=self._title, unit=self._unit, file=sys.stderr)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, note: str, count: int = 1) -> None:
        """Tell that ``count`` more units are done; ``note`` is shown beside (for instance the current loss)."""
        self._done += count
        if self._bar is not None:
            in_all = f", {self._in_all(time.monotonic())}" if self._following else ""
            self._bar.set_postfix_str(printable(note + in_all), refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        if not self._quiet and (now - self._said_at >= _PLAIN_INTERVAL or self._done >= self._total):
            self._said_at = now
            logger.info("%s %d/%d %s, %s", self._title, self._done, self._total, note, self._remaining(now))

    def _remaining(self, now: float) -> str:
        if self._done >= self._total or self._done <= self._begun:
            return f"{duration(now - self._begun_at)} in all"
        left = f"about {duration(self._left(now))} left"
        return f"{left}, {self._in_all(now)}" if self._following else left

    def _left(self, now: float) -> float:
        per_unit = (now - self._begun_at) / max(1, self._done - self._begun)
        return per_unit * (self._total - self._done)

    def _in_all(self, now: float) -> str:
        return f"{duration(self._left(now) + self._following)} of the run"


def duration(seconds: float) -> str:
    """Return a time span in words a person reads at a glance: ``48 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _encode(line: Line) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"
