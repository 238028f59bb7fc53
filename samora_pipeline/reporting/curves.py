"""progress.png: how a stage went, epoch by epoch, from the records of its log.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samora_pipeline.contracts.colours import BLUE, LINES, ORGAN_COLOURS
from samora_pipeline.files import atomic_path

Record = Mapping[str, Any]
Curve = list[tuple[float, float]]

# What a record holds besides losses and scores: the clock and the machine.
_NOT_DRAWN = frozenset(
    {"stage", "epoch", "seconds", "slices_per_second", "data_wait", "memory_gib", "gradient_norm", "skipped_steps"}
    | {"monitor_seconds", "micro_batch", "recomputed"}
)
# Reference levels of a loss: NT-Xent by chance, the error of the noisy input.
_LEVELS = ("chance", "noisy")
# So many epochs are shown with a mark each.
_FEW = 50
_RATES = ("lr", "learning_rate")


def draw_progress(records: Sequence[Record], path: Path, title: str) -> None:
    """Draw losses, scores and the learning rate over epochs into one PNG, each kind in a panel of its own.

    ``records`` are the lines of log.jsonl: flat, with ``epoch``, ``loss``, ``lr`` and any metrics. A metric whose name
    holds ``loss`` or ``entropy`` is drawn with the loss, as are the levels it is to be compared with (``chance``,
    ``noisy``); one that holds ``dice`` with the scores, any other among the measures. Epochs may lack a value.

    Raises:
        ValueError: without records.
    """
    figure = Figure(dpi=100, layout="constrained", facecolor="white")
    draw_panels(figure, records, title, width=9.0, height=2.5)
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure to ``path``, whose ending chooses PNG, SVG or PDF; the file holds no date."""
    kind = path.suffix.removeprefix(".")
    metadata = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=metadata)


def plain_axes(axes: Axes) -> None:
    """A faint grid and no frame above and to the right."""
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def draw_panels(figure: Figure, records: Sequence[Record], title: str, *, width: float, height: float) -> None:
    """Draw what ``draw_progress`` does into an empty figure: ``width`` inches wide, each panel ``height`` high.

    Raises:
        ValueError: without records.
    """
    if not records:
        raise ValueError("there is no epoch to draw")
    panels = _panels(records)
    figure.set_size_inches(width, 0.6 + height * len(panels))
    figure.suptitle(title, fontsize=13, weight="bold")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for own, (name, curves) in zip(axes, panels.items(), strict=True):
        _draw_panel(own, name, curves)
    axes[-1].set_xlabel("epoch")
    axes[-1].xaxis.get_major_locator().set_params(integer=True)


def _panels(records: Sequence[Record]) -> dict[str, dict[str, Curve]]:
    names = list(dict.fromkeys(name for record in records for name in record if name not in _NOT_DRAWN))
    panels: dict[str, dict[str, Curve]] = {"loss": {}, "Dice": {}, "measures": {}, "learning rate": {}}
    for name in names:
        points = [
            (float(record.get("epoch", number)), float(record[name]))
            for number, record in enumerate(records, start=1)
            if isinstance(record.get(name), int | float)
        ]
        if points:
            panels[_panel(name)][name] = points
    return {name: curves for name, curves in panels.items() if curves}


def _panel(name: str) -> str:
    if name in _RATES:
        return "learning rate"
    if name in _LEVELS or "loss" in name or "entropy" in name:
        return "loss"
    return "Dice" if "dice" in name.lower() else "measures"


def _draw_panel(axes: Axes, name: str, curves: dict[str, Curve]) -> None:
    colours = (BLUE, *ORGAN_COLOURS[:-1])
    for number, (label, points) in enumerate(curves.items()):
        axes.plot(
            *zip(*points, strict=True),
            label=label.replace("_", " "),
            color=colours[number % len(colours)],
            linestyle=LINES[number // len(colours) % len(LINES)],
            marker="." if len(points) <= _FEW else "",
        )
        if number == 0:
            axes.annotate(f"{points[-1][1]:.4g}", points[-1], (5, 0), textcoords="offset points", va="center")
    axes.set_ylabel(name)
    plain_axes(axes)
    if name == "Dice":
        axes.set_ylim(-0.02, 1.02)
    if len(curves) > 1:
        axes.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.06, 0.5))
