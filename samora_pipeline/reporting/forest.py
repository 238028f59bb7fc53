"""Forest plot: the paired differences of one metric with their intervals, organ by organ, against one baseline."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from samora_pipeline.contracts.colours import BLUE, GREEN, ORANGE, PURPLE, SKY_BLUE, VERMILLION
from samora_pipeline.evaluation.comparison import PairedRow, PairedTable
from samora_pipeline.evaluation.significance import ranking_remark
from samora_pipeline.reporting.curves import save_figure
from samora_pipeline.reporting.text_tables import interval_text, probability, signed

# Colours differ for the eye, marks in grey print.
_MARKS = (("o", BLUE), ("s", VERMILLION), ("^", GREEN), ("D", PURPLE), ("v", ORANGE), ("P", SKY_BLUE))
# Rows of one organ lie closer together than rows of two organs.
_STEP = 0.62


def forest_figure(table: PairedTable, warnings: Sequence[str] = ()) -> Figure:
    """Draw one metric: the mean over the organs first, then each organ, one mark per run, 95 % t intervals.

    Beside each mark stand the difference, its interval, the number of patients and Holm's p of the t-test.
    """
    groups = _groups(table)
    variants = list(dict.fromkeys(row.variant for _, rows in groups for row in rows))
    places = _places(groups)
    height = 2.0 + 0.26 * len(warnings) + 0.3 * sum(len(rows) for _, rows in groups) + 0.13 * len(groups)
    figure = Figure(figsize=(10.5, height + 0.24 * len(variants)), dpi=150, layout="constrained", facecolor="white")
    axes, texts = figure.subplots(1, 2, sharey=True, width_ratios=(1.5, 1))
    for (_, rows), ys in zip(groups, places, strict=True):
        for row, y in zip(rows, ys, strict=True):
            _draw_row(axes, row, y, _MARKS[variants.index(row.variant) % len(_MARKS)])
            texts.text(0.0, y, _sentence(row, table.record.digits), va="center", fontsize=8.5, family="monospace")
    _finish(axes, table, groups, places)
    texts.set_axis_off()
    head = f"{'diff.':>7} {'[95 % interval]':<18} {'n':>3}  p (Holm)"
    texts.text(0.0, 1.0, head, va="center", fontsize=8.5, family="monospace", weight="bold")
    _title(figure, table, warnings)
    handles = [
        axes.plot([], [], mark, color=colour, label=variant)[0]
        for variant, (mark, colour) in zip(variants, _MARKS * len(variants), strict=False)
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=1, fontsize=9, frameon=False)
    return figure


def draw_forest(table: PairedTable, path: Path, warnings: Sequence[str] = ()) -> None:
    """Write the forest plot to ``path``; its ending chooses PNG, SVG or PDF."""
    save_figure(forest_figure(table, warnings), path)


def _groups(table: PairedTable) -> list[tuple[str, list[PairedRow]]]:
    organs = list(dict.fromkeys(row.organ for row in table.organs))
    listed = [("mean over organs", list(table.overall))]
    listed += [(organ.replace("_", " "), [row for row in table.organs if row.organ == organ]) for organ in organs]
    return listed


def _places(groups: Sequence[tuple[str, Sequence[PairedRow]]]) -> list[list[float]]:
    """The height of each row, downwards from 0."""
    y, places = 0.0, []
    for _, rows in groups:
        places.append([y - _STEP * number for number in range(len(rows))])
        y -= _STEP * (len(rows) - 1) + 1
    return places


def _draw_row(axes: Axes, row: PairedRow, y: float, style: tuple[str, str]) -> None:
    mark, colour = style
    if row.test.difference is None:
        return
    if row.test.interval is not None:
        axes.plot([row.test.interval.low, row.test.interval.high], [y, y], color=colour, linewidth=1.6, marker="|")
    axes.plot(
        [row.test.difference], [y], mark, color=colour, markersize=7, markeredgecolor="black", markeredgewidth=0.5
    )


def _sentence(row: PairedRow, digits: int) -> str:
    test = row.test
    if test.difference is None:
        return "no patient with a pair"
    ends = interval_text(test.interval, digits)
    return f"{signed(test.difference, digits):>7} {ends:<18} {test.n:>3}  {probability(row.holm_t)}"


def _finish(
    axes: Axes, table: PairedTable, groups: Sequence[tuple[str, Sequence[PairedRow]]], places: Sequence[Sequence[float]]
) -> None:
    axes.axvline(0, color="black", linewidth=1)
    for ys in places[1:]:
        axes.axhline(ys[0] + 0.5, color="0.85", linewidth=0.6, zorder=0)
    axes.axhline(places[1][0] + 0.5 if len(places) > 1 else -0.5, color="0.4", linewidth=0.8, zorder=0)
    axes.set_yticks([(ys[0] + ys[-1]) / 2 for ys in places], [name for name, _ in groups])
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(places[-1][-1] - 0.6, 1.3)
    low, high = axes.get_xlim()
    # Zero in the middle: a difference looks as large to one side as to the other.
    reach = max(abs(low), abs(high)) or 1.0
    axes.set_xlim(-reach, reach)
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right", "left"]].set_visible(False)
    better, worse = "run better →", "← baseline better"
    if not table.record.higher_is_better:
        better, worse = "baseline better →", "← run better"
    unit = f" in {table.unit}" if table.unit else ""
    axes.set_xlabel(f"{worse}      difference of {table.record.name}{unit}      {better}", fontsize=9)


def _title(figure: Figure, table: PairedTable, warnings: Sequence[str]) -> None:
    least = min((row.test.n for row in (*table.overall, *table.organs)), default=0)
    lines = [f"{table.record.name}, protocol {table.protocol}: difference from {table.baseline}, paired by patient"]
    if remark := ranking_remark(least):
        lines.append(remark)
    marked = "\n".join([*(f"*** {warning} ***" for warning in warnings), *lines])
    figure.suptitle(marked, fontsize=10.5, weight="bold" if warnings else "normal", x=0.01, ha="left")
