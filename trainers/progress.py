"""progress.png: loss, metrics and learning rate of a stage over its epochs, drawn so rarely that it costs nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from samora_pipeline.files import atomic_path
from samora_pipeline.run_log import Line

PROGRESS_FILE = "progress.png"
_SHARE = 100
"""a new picture is due when this many times the last one's drawing time has passed"""
_NOT_CURVES = frozenset({"stage", "epoch", "loss", "lr", "seconds", "slices_per_second", "data_wait", "memory_gib"})
_NOT_METRICS = _NOT_CURVES | {"gradient_norm", "skipped_steps"}


class ProgressPicture:
    """Draws ``progress.png`` at most one hundredth of the time, and once at the end."""

    def __init__(self, path: Path, title: str) -> None:
        self._path, self._title = path, title
        self._due = time.monotonic() + 60.0

    def update(self, history: Sequence[Line], *, last: bool = False) -> None:
        """Draw ``history`` if a picture is due or this is the ``last`` epoch."""
        now = time.monotonic()
        if not history or (now < self._due and not last):
            return
        _draw(self._path, self._title, history)
        self._due = time.monotonic() + _SHARE * (time.monotonic() - now)


def _draw(path: Path, title: str, history: Sequence[Line]) -> None:
    # Figure objects without pyplot: no global state, no display, the Agg canvas is implied by the file format.
    from matplotlib.figure import Figure

    epochs = [line["epoch"] for line in history]
    metrics = sorted({name for line in history for name in line} - _NOT_METRICS)
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    figure.suptitle(title)
    (curve,) = above.plot(epochs, [line["loss"] for line in history], color="C0", label="loss", marker=".")
    curves = [curve]
    above.set_ylabel("loss")
    if metrics:
        right = above.twinx()
        for number, name in enumerate(metrics, start=1):
            points = [(line["epoch"], line[name]) for line in history if name in line]
            curves += right.plot(*zip(*points, strict=True), color=f"C{number}", label=name, linestyle="--")
    above.legend(handles=curves, loc="best", fontsize="small")
    below.plot(epochs, [line["lr"] for line in history], color="C7")
    below.set_ylabel("learning rate")
    below.set_xlabel("epoch")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)
