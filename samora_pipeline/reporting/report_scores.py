"""Scores as parts of a report: the table of organs with both protocols, its picture, and the table of cases."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure as Drawing

from samora_pipeline.contracts.colours import BLUE, ORANGE
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.evaluation.comparison import Protocol
from samora_pipeline.evaluation.significance import ranking_remark
from samora_pipeline.evaluation.tables import NO_INTERVAL, heading, score_rows, score_text
from samora_pipeline.reporting.html_blocks import Cell, Figure, Section, Table, Value, cell
from samora_pipeline.reporting.html_images import drawing, svg_image
from samora_pipeline.reporting.pictures import SelectedCase, case_mean

# Dots of one row are spread by so much, so that equal scores stay apart.
_JITTER = 0.24
_EMPTY = Cell("")
_FAMILY = (
    "Protocol sam_family, the rules of the TransUNet, SAMed and H-SAM code that the tables of the SAMora paper "
    "follow: voxels instead of mm; an organ predicted though absent scores (1, 0), one missed or in neither mask "
    "(0, 0), so that a miss improves the mean distance."
)


def headline(summary: Summary) -> tuple[str, ...]:
    """What a reader wants to know first, in sentences."""
    mean, interval = summary.foreground_mean.Dice, summary.intervals.foreground_mean.get("Dice")
    patients = f"{summary.bootstrap.n} patient{'s' * (summary.bootstrap.n != 1)}"
    if mean is None:
        return (f"No organ of the reference occurs in the {summary.n} scored cases.",)
    between = f" (95 % interval {interval.low:.3f} to {interval.high:.3f})" if interval else ""
    sentences = [f"Mean Dice {mean:.3f}{between} over {len(summary.labels)} organs, {summary.n} cases of {patients}."]
    if remark := ranking_remark(summary.bootstrap.n):
        sentences.append(f"{remark}.")
    return tuple(sentences)


def organ_section(summary: Summary, warnings: tuple[str, ...]) -> Section:
    """Both protocols per organ, with intervals and counts."""
    tables = (_organ_table(summary, "physical"), _organ_table(summary, "sam_family"))
    return Section("organs", (_organ_figure(summary, warnings), *tables))


def case_section(summary: Summary, chosen: list[SelectedCase]) -> Section:
    """One row per case, sortable, with links to the cases that are shown."""
    return Section("case-list", (_case_table(summary, chosen), _distance_table(summary)), "cases")


def case_cell(case: str, chosen: Sequence[SelectedCase]) -> Cell:
    """The name of a case, with its role and a link to its slices where it is shown."""
    role = next((one.role for one in chosen if one.case.case == case), "")
    return Cell(f"{case} ({role})", case, f"case-{role.replace(' ', '-')}") if role else Cell(case, case)


def _organ_figure(summary: Summary, warnings: tuple[str, ...]) -> Figure:
    names = _organs(summary)
    with drawing():
        figure = Drawing(figsize=(8.5, 1.1 + 0.36 * len(names)), layout="constrained", facecolor="white")
        axes = figure.subplots()
        for place, key in enumerate(summary.labels):
            dots = [dice for row in summary.metric_per_case if (dice := row.metrics[key].Dice) is not None]
            offsets = np.linspace(-_JITTER, _JITTER, len(dots)) if len(dots) > 1 else np.zeros(len(dots))
            axes.plot(dots, place + offsets, "o", color=BLUE, alpha=0.55, markersize=4.5, zorder=2)
            mean, interval = summary.mean[key].Dice, summary.intervals.mean[key].get("Dice")
            if mean is not None:
                axes.plot([mean], [place], "D", color=ORANGE, markeredgecolor="black", markersize=7, zorder=4)
            if interval is not None:
                axes.plot([interval.low, interval.high], [place, place], color="black", linewidth=2, zorder=3)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("Dice of the whole volume")
        axes.grid(axis="x", alpha=0.3)
        image = svg_image(figure, warnings)
    means = {name: summary.mean[key].Dice for key, name in summary.labels.items()}
    words = "; ".join(f"{name} absent" if mean is None else f"{name} {mean:.3f}" for name, mean in means.items())
    return Figure(
        "organ-figure",
        image,
        f"Dice per organ: {words}",
        "Blue dots: cases. Diamond: mean. Black line: 95 % bootstrap interval of the mean, by patient. The numbers are "
        "in the table below.",
    )


def _organ_table(summary: Summary, protocol: Protocol) -> Table:
    """The metrics of a protocol per organ; protocol ``physical`` with what stands behind the means."""
    columns, organs = score_rows(summary, protocol)
    physical = protocol == "physical"
    rows: list[tuple[Value, ...]] = []
    for key, name, values in organs:
        counts = summary.counts.get(key)
        scores = (Cell(score_text(one, *score), score[0]) for one, score in zip(columns, values, strict=True))
        if not physical:
            rows.append((name, *scores))
        elif counts is None:
            rows.append((name, _EMPTY, *scores, *[_EMPTY] * 3))
        else:
            voxels = f" ({counts.false_positive_voxels} voxels)" if counts.false_positive else ""
            wrongly = Cell(f"{counts.false_positive}{voxels}", float(counts.false_positive))
            rows.append((name, counts.scored, *scores, counts.missed, counts.absent, wrongly))
    header = [f"{heading(one, summary, protocol)}{'' if one.name in NO_INTERVAL else ' [95 %]'}" for one in columns]
    if not physical:
        return Table("family-table", "Organs, protocol sam_family", ("organ", *header), rows, notes=(_FAMILY,))
    note = (
        f"Protocol physical, distances by the convention {summary.convention}: organs absent from the reference are "
        "left out and counted; a missed organ has Dice 0 and no distance."
    )
    header = ["organ", "cases", *header, "missed", "absent", "predicted though absent"]
    return Table("organ-table", "Organs, protocol physical", header, rows, notes=(note,))


def _case_table(summary: Summary, chosen: list[SelectedCase]) -> Table:
    several = len(summary.folds) > 1
    rows = [
        (
            case_cell(row.case, chosen),
            row.patient,
            *([row.fold or ""] * several),
            case_mean(row),
            cell(case_mean(row, "HD95"), 1),
            *(row.metrics[key].Dice for key in summary.labels),
        )
        for row in summary.metric_per_case
    ]
    header = ["case", "patient", *["fold"] * several, "mean Dice", f"mean HD95 {summary.distance_unit}"]
    notes = ("Columns with an organ's name: its Dice; - where the organ is absent from the reference.",)
    return Table("cases", "Scored cases", [*header, *_organs(summary)], rows, sortable=True, notes=notes)


def _distance_table(summary: Summary) -> Table:
    rows = [(row.case, *(row.metrics[key].HD95 for key in summary.labels)) for row in summary.metric_per_case]
    caption = f"HD95 in {summary.distance_unit} per case and organ"
    return Table("distances", caption, ("case", *_organs(summary)), rows, sortable=True, folded=True, digits=1)


def _organs(summary: Summary) -> list[str]:
    return [name.replace("_", " ") for name in summary.labels.values()]
