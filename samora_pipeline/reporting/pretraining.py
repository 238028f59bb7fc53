"""monitoring.png of a self-supervised stage: example inputs and outputs, curves, LoRA norms by block, and the measures.

Shapes: B slices, N pixels along a side.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from samora_pipeline.contracts import monitoring
from samora_pipeline.contracts.colours import BLUE, ORANGE, VERMILLION
from samora_pipeline.reporting.curves import plain_axes, save_figure

Columns = Mapping[str, npt.NDArray[np.float32]]
Line = Mapping[str, Any]

_ROWS = 3
_GAP = 0.05
"""between pictures, as a share of their side"""
_DPI, _SPACING = 90, 1.35
# Inches.
_WIDTH, _PANEL, _CURVES, _TEXT_LINE, _TITLE = 12.0, 1.9, 2.6, 0.19, 0.7
_SHORT_NAMES = {"panel_gap": "gap", "panel_loss": "loss on the panel", "panel_explained": "explained"}


def draw_monitoring(
    report: monitoring.MonitoringReport, history: Sequence[Line], columns: Columns, folder: Path
) -> None:
    """Write monitoring.png into ``folder``.

    Args:
        report: the numbers.
        history: lines of log.jsonl, for the curves.
        columns: pictures (B,N,N) in [0,1] by title; the last is an error. May be empty.
        folder: of the stage.
    """
    heights = [_CURVES, _text_height(report.measures)]
    rows = min(_ROWS, *(len(pictures) for pictures in columns.values())) if columns else 0
    if rows:
        heights.insert(0, _PANEL * rows + 0.3)
    title = f"{report.stage}: {report.verdict.upper()}"
    figure, parts = _figure(title, report.verdict, (report.taught_by, *report.warnings), heights)
    if rows:
        _draw_columns(parts[0], columns, rows)
    _draw_curves(parts[-2], report, history)
    _draw_measures(parts[-1], report.measures)
    save_figure(figure, folder / monitoring.MONITORING_PICTURE)


def draw_experts(report: monitoring.ExpertsReport, folder: Path) -> None:
    """Write experts.png into ``folder``: who resembles whom, and what can be read off each."""
    title = f"experts side by side: {report.verdict.upper()}"
    figure, (top, bottom) = _figure(title, report.verdict, report.warnings, [3.2, _text_height(report.measures)])
    top.subplots_adjust(left=0.06, right=0.98, bottom=0.12, top=0.88, wspace=0.15)
    left, right = top.subplots(1, 2)
    left.imshow(report.similarity, vmin=0, vmax=1, cmap="viridis")
    left.set_xticks(range(len(report.names)), report.names)
    left.set_yticks(range(len(report.names)), report.names)
    for row, values in enumerate(report.similarity):
        for column, value in enumerate(values):
            colour = "white" if value < 0.6 else "black"
            left.text(column, row, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=9)
    left.set_title("linear CKA of pooled features", fontsize=10)
    right.bar(report.names, report.position_error, color=BLUE)
    right.axhline(report.position_chance, color=VERMILLION, linestyle="--", label="chance")
    right.set_title("error of the axial position read off neighbours", fontsize=10)
    right.set_ylim(0, 1.25 * max(report.position_chance, *report.position_error, 1e-3))
    right.legend(fontsize=8, frameon=False)
    plain_axes(right)
    _draw_measures(bottom, report.measures)
    save_figure(figure, folder / monitoring.EXPERTS_PICTURE)


def _figure(title: str, verdict: str, notes: Sequence[str], heights: Sequence[float]) -> tuple[Figure, list[SubFigure]]:
    # Fixed margins: finding them by layout costs more than the drawing.
    figure = Figure(figsize=(_WIDTH, _TITLE + sum(heights)), dpi=_DPI, facecolor="white")
    note = "   ".join(note for note in notes if note)
    head, *parts = figure.subfigures(1 + len(heights), 1, squeeze=False, height_ratios=[_TITLE, *heights])[:, 0]
    colour = VERMILLION if verdict == "warn" else "black"
    head.text(0.5, 0.5, f"{title}\n{note}" if note else title, fontsize=12, color=colour, ha="center", va="center")
    return figure, parts


def _draw_columns(part: SubFigure, columns: Columns, rows: int) -> None:
    """All pictures as one: an axes for each would take most of the time."""
    side = max(pictures.shape[-1] for pictures in columns.values())
    step = side + max(1, round(_GAP * side))
    last = len(columns) - 1
    # The panel is ordered by scan and position, so its ends and middle are the most different.
    count = min(len(pictures) for pictures in columns.values())
    chosen = [count * (2 * row + 1) // (2 * rows) for row in range(rows)]
    mosaic = np.ones((rows * step, (last + 1) * step, 3), dtype=np.float32)
    for column, pictures in enumerate(columns.values()):
        colours = colormaps["magma" if column == last else "gray"]
        for row, index in enumerate(chosen):
            factor = side // pictures.shape[-1]
            enlarged = pictures[index].repeat(factor, 0).repeat(factor, 1)
            height, width = enlarged.shape
            corner = mosaic[row * step : row * step + height, column * step : column * step + width]
            corner[:] = colours(enlarged)[..., :3]
    part.subplots_adjust(left=0.02, right=0.98, bottom=0.0, top=0.94)
    axes = part.subplots()
    axes.imshow(mosaic)
    axes.set_axis_off()
    for column, name in enumerate(columns):
        axes.text((column + 0.5) * step, -0.02 * step * rows, name, fontsize=10, ha="center", va="bottom")


def _draw_curves(part: SubFigure, report: monitoring.MonitoringReport, history: Sequence[Line]) -> None:
    watched = next(name for name in ("panel_gap", "panel_explained", "panel_loss") if name in history[-1])
    part.subplots_adjust(left=0.06, right=0.98, bottom=0.14, top=0.88, wspace=0.2)
    axes = part.subplots(1, 3 if report.blocks else 2)
    epochs = [line["epoch"] for line in history]
    _draw_curve(axes[0], epochs, [line.get("loss", float("nan")) for line in history], "training loss")
    _draw_curve(axes[1], epochs, [line.get(watched, float("nan")) for line in history], _SHORT_NAMES[watched])
    if watched != "panel_loss":
        axes[1].axhline(0, color=VERMILLION, linestyle="--", linewidth=1)
    if report.blocks:
        places = np.arange(1, len(report.blocks["q"]) + 1)
        axes[2].bar(places - 0.2, report.blocks["q"], 0.4, color=BLUE, label="q")
        axes[2].bar(places + 0.2, report.blocks["v"], 0.4, color=ORANGE, label="v")
        axes[2].set_title("|BA| / |W| of each block", fontsize=10)
        axes[2].legend(fontsize=8, frameon=False)
        plain_axes(axes[2])


def _draw_curve(axes: Axes, epochs: Sequence[int], values: Sequence[float], title: str) -> None:
    axes.plot(epochs, values, color=BLUE, marker="." if len(epochs) <= 50 else "")
    axes.set_title(title, fontsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain_axes(axes)


def _draw_measures(part: SubFigure, measures: Sequence[monitoring.Measure]) -> None:
    """One text per column and colour; a text per cell takes several times as long."""
    lines = _lines(measures)
    top = 1 - 0.5 / (1 + len(lines))
    for colour in dict.fromkeys(line[-1] for line in lines):
        for column, x in enumerate((0.02, 0.07, 0.26, 0.34)):
            words = "\n".join(line[column] if line[-1] == colour else "" for line in lines)
            part.text(x, top, words, fontsize=8.5, va="top", color=colour, linespacing=_SPACING)


def _lines(measures: Sequence[monitoring.Measure]) -> list[tuple[str, str, str, str, str]]:
    lines = []
    for measure in measures:
        mark = {True: "pass", False: "WARN", None: ""}[measure.passed]
        wanted = f"  [{measure.wanted}]" if measure.wanted else ""
        colour = VERMILLION if measure.passed is False else "black"
        text = f"{measure.meaning}{wanted}"
        lines.append((mark, measure.name.replace("_", " "), f"{measure.value:.4g}", text, colour))
        if measure.advice:
            lines.append(("", "", "", f"-> {measure.advice}", VERMILLION))
    return lines


def _text_height(measures: Sequence[monitoring.Measure]) -> float:
    return _TEXT_LINE * (1 + len(_lines(measures)))
