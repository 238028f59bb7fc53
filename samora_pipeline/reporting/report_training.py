"""How a run was trained: curves of the fine-tuning, time and memory of every stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure as Drawing

from samora_pipeline.reporting.curves import draw_panels
from samora_pipeline.reporting.html_blocks import Block, Cell, Figure, Note, Section, Table
from samora_pipeline.reporting.html_images import drawing, svg_image
from samora_pipeline.reporting.report_run import ReportedRun
from samora_pipeline.run_log import duration


def training_section(run: ReportedRun, stamps: tuple[str, ...]) -> Section:
    """Curves per fold and a table of the stages."""
    blocks: list[Block] = []
    for fold in run.folds:
        if log := run.log(fold):
            name = f"curves-{fold}"
            blocks.append(curves_figure(name, f"Fine-tuning, fold {fold}", log, stamps))
            blocks.append(epochs_table(f"epochs-{fold}", f"First and last epochs, fold {fold}", log))
        else:
            blocks.append(Note(f"Fold {fold} has no log of its fine-tuning."))
    blocks.append(_stages(run))
    return Section("training", tuple(blocks))


def curves_figure(name: str, title: str, log: Sequence[Mapping[str, Any]], stamps: tuple[str, ...]) -> Figure:
    """The curves of one stage."""
    with drawing():
        figure = Drawing(layout="constrained", facecolor="white")
        draw_panels(figure, log, title, width=8.5, height=1.9)
        image = svg_image(figure, stamps)
    last = log[-1]
    words = ", ".join(f"{key} {_short(last[key])}" for key in ("loss", "lr") if key in last)
    return Figure(
        name,
        image,
        f"{title}: curves over {len(log)} epochs; in the last one {words}",
        f"{title}, {len(log)} epochs. The figure at a curve's end is its last value.",
    )


def epochs_table(name: str, caption: str, log: Sequence[Mapping[str, Any]]) -> Table:
    """The first two and the last three epochs as numbers."""
    shown = [*log[:2], *log[max(2, len(log) - 3) :]]
    header = [key for key in log[0] if key not in ("stage", "epoch")]
    rows = [(Cell(str(line.get("epoch", ""))), *(_value(line.get(key)) for key in header)) for line in shown]
    return Table(name, caption, ("epoch", *(key.replace("_", " ") for key in header)), rows)


def _stages(run: ReportedRun) -> Table:
    timings = run.scored.timings
    stages = [
        (stage, fold, timing, own)
        for fold, timing in zip(run.folds, timings, strict=False)
        for stage, own in timing.stages.items()
    ]
    rows = [
        (
            *(stage, fold, Cell(duration(own.seconds), own.seconds), own.memory_gib),
            *(own.epochs, "yes" if own.reused else "no", timing.device, timing.ranks),
        )
        for stage, fold, timing, own in stages
    ]
    seconds = [f"{one.seconds_per_volume:g}" for one in timings if one.seconds_per_volume is not None]
    notes = [f"Seconds per volume, from file to file: {', '.join(seconds)}."] if seconds else []
    if any(own.reused for *_, own in stages):
        notes.append("reused: made for another run with equal settings; the time is that run's.")
    header = ("stage", "fold", "time", "peak memory GiB", "epochs", "reused", "device", "processes")
    return Table("stages", "Time and memory per stage", header, rows, notes=notes, digits=2)


def flattened(plain: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Pairs of a dotted name and a value for everything in a JSON-like value; lists of plain values stay one."""
    if isinstance(plain, dict):
        for key, value in plain.items():
            yield from flattened(value, f"{name}.{key}" if name else str(key))
    elif isinstance(plain, list) and any(isinstance(item, dict | list) for item in plain):
        for index, value in enumerate(plain):
            yield from flattened(value, f"{name}[{index}]")
    elif isinstance(plain, list):
        yield name, ", ".join(_short(item) for item in plain)
    else:
        yield name, _short(plain)


def _value(value: object) -> Cell:
    return Cell(_short(value), float(value) if isinstance(value, int | float) else None)


def _short(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
