"""What a study ends with: an overview of all variants, curves, and samora_compare's tables and pictures per budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.studies.scored import Cell, Measured, Scored
from samora_pipeline.contracts.colours import ORGAN_COLOURS
from samora_pipeline.files import atomic_path, write_text
from samora_pipeline.reporting.text_tables import TextTable, csv, markdown
from trainers.study.state import StudyState

RESULTS_FILE = "results.md"
OVERVIEW_FILE = "overview.csv"
CURVES_FILE = "curves.png"

_HEADER = (
    "variant",
    "labels",
    "scans",
    "seeds",
    "Dice",
    "HD95 physical",
    "ASSD physical",
    "HD95 sam_family (voxel)",
    "steps",
    "hours of training",
)
_MARKS = "osD^vP*Xhd"


def overview(cells: Sequence[Cell], notes: Sequence[str]) -> TextTable:
    """All cells under both protocols, with intervals."""
    unit = cells[0].first.summary.distance_unit
    header = tuple(f"{name} ({unit})" if name.endswith("physical") else name for name in _HEADER)
    rows = tuple(_row(cell) for cell in cells)
    patients = cells[0].first.summary.bootstrap.n
    remarks = (
        f"mean and 95 % bootstrap interval over {patients} patients; seeds are averaged within a patient first",
        *notes,
    )
    warnings = tuple(dict.fromkeys(warning for cell in cells for run in cell.runs for warning in run.summary.warnings))
    return TextTable("overview", "All variants", header, rows, remarks, warnings)


def write_results(folder: Path, cells: Sequence[Cell], state: StudyState, notes: Sequence[str]) -> list[Path]:
    """Write the overview (Markdown and CSV) with what the study was, and the curves."""
    table = overview(cells, notes)
    about = [
        f"- {name}: {value if isinstance(value, str | int) else ', '.join(value) or 'none'}"
        for name, value in state.frame.items()
    ]
    about += [f"- {name}: {value}" for name, value in state.machine.items()]
    about += [f"- minutes in commands, all steps: {state.seconds / 60:.1f}"]
    text = "\n".join(["# Label-efficiency study", "", *about, "", markdown(table)])
    write_text(folder / RESULTS_FILE, text)
    write_text(folder / OVERVIEW_FILE, csv(table))
    draw_curves(folder / CURVES_FILE, cells, table.warnings)
    return [folder / name for name in (RESULTS_FILE, OVERVIEW_FILE, CURVES_FILE)]


def draw_curves(path: Path, cells: Sequence[Cell], warnings: Sequence[str]) -> None:
    """Mean Dice against labelled scans, steps of fine-tuning and hours of training, one line or mark per variant."""
    figure = Figure(figsize=(13, 4.4), dpi=130, layout="constrained", facecolor="white")
    axes: Sequence[Axes] = figure.subplots(1, 3, sharey=True)
    labels = list(dict.fromkeys(cell.first.label for cell in cells))
    for number, label in enumerate(labels):
        own = [cell for cell in cells if cell.first.label == label]
        style = {"color": ORGAN_COLOURS[number % len(ORGAN_COLOURS)], "marker": _MARKS[number % len(_MARKS)]}
        _line(axes[0], [(cell.first.scans, cell.physical("Dice")) for cell in own], label, style)
        _line(
            axes[1], [(cell.first.steps, cell.physical("Dice")) for cell in own], label, {**style, "linestyle": "none"}
        )
        _line(axes[2], [(cell.hours, cell.physical("Dice")) for cell in own], label, {**style, "linestyle": "none"})
    names = ("labelled scans", "steps of fine-tuning", "hours of training, all stages")
    for axis, name in zip(axes, names, strict=True):
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel(name)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean Dice, 95 % bootstrap interval")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    if warnings:
        figure.suptitle(" | ".join(warnings), weight="bold")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def compare_words(cells: Sequence[Cell], root: Path, output: Path) -> list[str]:
    """The words of samora_compare for the runs of one budget; the first variant is the baseline."""
    runs = [str(run.folder.parent) for cell in cells for run in cell.runs]
    return ["samora_compare", *runs, "--baseline", runs[0], "-o", str(output), "--root", str(root)]


def left_out_note(runs: Sequence[Scored]) -> tuple[str, ...]:
    """Names the finished runs whose seed another variant has not finished."""
    if not runs:
        return ()
    return (
        f"left out, because other variants lack the seed: {', '.join(f'{r.label}/{r.budget}/{r.seed}' for r in runs)}",
    )


def _row(cell: Cell) -> tuple[str, ...]:
    first = cell.first
    return (
        first.what,
        first.budget,
        str(first.scans),
        str(len(cell.runs)),
        _text(cell.physical("Dice"), 3),
        _text(cell.physical("HD95"), 2),
        _text(cell.physical("ASSD"), 2),
        _text(cell.sam_family("HD95"), 2),
        str(first.steps) if first.steps else "-",
        f"{cell.hours:.3f}",
    )


def _text(measured: Measured, digits: int) -> str:
    if measured.mean is None:
        return "-"
    interval = measured.interval
    ends = "" if interval is None else f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"
    return f"{measured.mean:.{digits}f}{ends}"


def _line(axis: Axes, points: Sequence[tuple[float, Measured]], label: str, style: dict[str, str]) -> None:
    known = sorted(((x, point) for x, point in points if point.mean is not None and x > 0), key=lambda pair: pair[0])
    if not known:
        return
    means = [point.mean or 0.0 for _, point in known]
    ends = [
        (point.interval.low, point.interval.high) if point.interval else (mean, mean)
        for (_, point), mean in zip(known, means, strict=True)
    ]
    below = [max(0.0, mean - low) for mean, (low, _) in zip(means, ends, strict=True)]
    above = [max(0.0, high - mean) for mean, (_, high) in zip(means, ends, strict=True)]
    axis.errorbar([x for x, _ in known], means, yerr=[below, above], label=label, capsize=3, **style)  # type: ignore[arg-type]
