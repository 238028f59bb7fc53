"""When progress.png of a stage is drawn: so rarely that it costs nothing, and once at the end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from samora_pipeline.run_log import Line

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
