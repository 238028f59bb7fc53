"""How a run was trained: curves of the fine-tuning, time and memory of every stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure as Drawing

from samora_pipeline.contracts.timing import StageTiming
from samora_pipeline.reporting.curves import draw_panels
from samora_pipeline.reporting.html_blocks import Block, Cell, Figure, Note, Section, Table, cells, number
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
    return Section(
        "training",
        "Training",
        "What happened while the network learned from the labels.",
        "The loss should fall and level out. Still falling at the end: train for longer. Flat from the start, or "
        "jumping: another learning rate. data wait is the share of time that the device waited for slices: above "
        "0.2, storage or augmentation are too slow. Skipped steps were not finite: a few do no harm, many mean that "
        "the learning rate is too high.",
        tuple(blocks),
    )


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
    rows = tuple((Cell(str(line.get("epoch", "")), None), *(_value(line.get(key)) for key in header)) for line in shown)
    return Table(name, caption, ("epoch", *(key.replace("_", " ") for key in header)), rows)


def _stages(run: ReportedRun) -> Table:
    rows = []
    for fold, timing in zip(run.folds, run.scored.timings, strict=False):
        for stage, own in timing.stages.items():
            rows.append((*cells((stage, fold)), *_stage_cells(own), *cells((timing.device, timing.ranks))))
    seconds = [timing.seconds_per_volume for timing in run.scored.timings if timing.seconds_per_volume is not None]
    notes = (
        [f"Seconds per volume, from file to file: {', '.join(f'{value:g}' for value in seconds)}."] if seconds else []
    )
    if any(own.reused for timing in run.scored.timings for own in timing.stages.values()):
        notes.append("reused: made for another run with equal settings; the time is that run's.")
    header = ("stage", "fold", "time", "peak memory GiB", "epochs", "reused", "device", "processes")
    return Table("stages", "Time and memory per stage", header, tuple(rows), notes=tuple(notes))


def _stage_cells(own: StageTiming) -> tuple[Cell, ...]:
    return (
        Cell(duration(own.seconds), own.seconds),
        number(own.memory_gib, 2),
        Cell("-" if own.epochs is None else str(own.epochs), None),
        Cell("yes" if own.reused else "no", None),
    )


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
    text = _short(value)
    return Cell(text, float(value)) if isinstance(value, int | float) else Cell(text, None)


def _short(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
