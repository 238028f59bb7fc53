"""How a run was trained: curves, time and memory of its stages, monitoring reports of the self-supervised ones."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure as Drawing

from samora_pipeline.contracts import monitoring
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.reporting.curves import draw_panels
from samora_pipeline.reporting.html_blocks import Block, Cell, Figure, Note, Section, Table, Value
from samora_pipeline.reporting.html_images import drawing, shrunk_image, svg_image
from samora_pipeline.reporting.report_run import LOG_FILE, ReportedRun, read_log
from samora_pipeline.run_log import duration

_PICTURE_WIDTH = 900
_PASSED = {True: "pass", False: "WARN", None: ""}


def training_section(run: ReportedRun, warnings: tuple[str, ...]) -> Section:
    """Curves per fold and a table of the stages."""
    blocks: list[Block] = []
    for fold in run.folds:
        if log := run.log(fold):
            name = f"curves-{fold}"
            blocks.append(curves_figure(name, f"Fine-tuning, fold {fold}", log, warnings))
            blocks.append(epochs_table(f"epochs-{fold}", f"First and last epochs, fold {fold}", log))
        else:
            blocks.append(Note(f"Fold {fold} has no log of its fine-tuning."))
    blocks.append(_stages(run))
    return Section("training", tuple(blocks))


def curves_figure(name: str, title: str, log: Sequence[Mapping[str, Any]], warnings: tuple[str, ...]) -> Figure:
    """The curves of one stage."""
    with drawing():
        figure = Drawing(layout="constrained", facecolor="white")
        draw_panels(figure, log, title, width=8.5, height=1.9)
        image = svg_image(figure, warnings)
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


def pretraining_section(run: ReportedRun, warnings: tuple[str, ...]) -> Section:
    """Every stage without labels that the run used, and how alike its experts are."""
    blocks: list[Block] = []
    stages = [(record.name, record.key) for config in run.scored.configs for record in config.stages if record.key]
    for stage, key in dict.fromkeys(stages):
        folder = run.places.pretraining / key / stage
        if folder.is_dir():
            blocks += _stage_blocks(stage, key, folder, warnings)
        else:
            blocks.append(Note(f"{stage} {key}: its folder is not there, so its monitors are left out."))
    for fold, folder in run.folds.items():
        blocks += _experts_blocks(fold, folder, warnings)
    if not blocks:
        blocks.append(Note("No expert of this run was trained without labels."))
    return Section("pretraining", tuple(blocks))


def _stage_blocks(stage: str, key: str, folder: Path, warnings: tuple[str, ...]) -> Iterator[Block]:
    title, name = f"{stage.replace('_', ' ')} {key}", f"{stage}-{key}"
    log = read_log(folder / LOG_FILE)
    if (folder / monitoring.MONITORING_FILE).is_file():
        report = read_json(monitoring.MonitoringReport, folder / monitoring.MONITORING_FILE)
        own = tuple(dict.fromkeys((*warnings, *report.warnings)))
        notes = (
            f"Seen on {report.panel_slices} slices of a pool of {report.pool_slices}, after {report.epochs} epochs.",
            *((f"Taught by {report.taught_by}.",) if report.taught_by else ()),
            *((f"Warning flags: {', '.join(report.warnings)}.",) if report.warnings else ()),
        )
        yield from measure_tables(f"monitoring-{name}", f"{title}: {report.verdict.upper()}", report.measures, notes)
        yield from _picture(
            folder / monitoring.MONITORING_PICTURE, f"picture-{name}", f"{title}, monitoring report", own
        )
    else:
        yield Note(f"{title} has no monitoring report; its curves follow.")
        if log:
            yield curves_figure(f"curves-{name}", title, log, warnings)
    if log:
        yield replace(epochs_table(f"epochs-{name}", f"{title}: first and last epochs", log), folded=True)


def _experts_blocks(fold: str, folder: Path, warnings: tuple[str, ...]) -> Iterator[Block]:
    if not (folder / monitoring.EXPERTS_FILE).is_file():
        return
    report = read_json(monitoring.ExpertsReport, folder / monitoring.EXPERTS_FILE)
    title = f"Experts side by side, fold {fold}"
    notes = ("Similarity is linear CKA of pooled features of the last block: 1 means alike up to rotation and scale.",)
    rows: list[tuple[Value, ...]] = [
        (name, *values) for name, values in zip(report.names, report.similarity, strict=True)
    ]
    yield Table(f"similarity-{fold}", f"{title}: similarity", ("features of", *report.names), rows, notes=notes)
    yield from measure_tables(f"experts-monitoring-{fold}", f"{title}: {report.verdict.upper()}", report.measures, ())
    yield from _picture(folder / monitoring.EXPERTS_PICTURE, f"experts-monitoring-picture-{fold}", title, warnings)


def measure_tables(
    name: str, caption: str, measures: Sequence[monitoring.Measure], notes: tuple[str, ...]
) -> Iterator[Table]:
    """Numbers that have a threshold, with verdict and advice; then, folded, those that are only shown."""
    judged = [one for one in measures if one.passed is not None]
    yield _measures_table(name, caption, judged, notes)
    if others := [one for one in measures if one.passed is None]:
        yield replace(_measures_table(f"{name}-more", f"{caption}, more measures", others, ()), folded=True)


def _measures_table(name: str, caption: str, measures: Sequence[monitoring.Measure], notes: tuple[str, ...]) -> Table:
    rows: list[tuple[Value, ...]] = [
        (
            one.name.replace("_", " "),
            Cell(f"{one.value:.4g}", one.value),
            *(Cell(text) for text in (_PASSED[one.passed], one.wanted, one.meaning, one.advice)),
        )
        for one in measures
    ]
    return Table(name, caption, ("measure", "value", "verdict", "wanted", "meaning", "what to do"), rows, notes=notes)


def _picture(path: Path, name: str, text: str, warnings: tuple[str, ...]) -> Iterator[Figure]:
    if path.is_file():
        image = shrunk_image(path, _PICTURE_WIDTH, warnings)
        yield Figure(name, image, f"{text}; its numbers are in the table above", f"{text}.")


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
