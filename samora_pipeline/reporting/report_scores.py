"""Scores as parts of a report: the table of organs with both protocols, its picture, and the table of cases."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

import numpy as np
from matplotlib.figure import Figure as Drawing

from samora_pipeline.contracts.scores import CaseMetrics, Interval, Summary
from samora_pipeline.evaluation.significance import ranking_remark
from samora_pipeline.reporting.html_blocks import Cell, Figure, Section, Table, leading_to, number
from samora_pipeline.reporting.html_images import drawing, svg_image
from samora_pipeline.reporting.palette import BLUE, ORANGE
from samora_pipeline.reporting.pictures import Chosen, case_dice

# Dots of one row are spread by so much, so that equal scores stay apart.
_JITTER = 0.24


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


def organ_section(summary: Summary, stamps: tuple[str, ...]) -> Section:
    """Both protocols per organ, with intervals and counts."""
    return Section(
        "organs",
        "Organs",
        "How well each organ was segmented, by two protocols that answer different questions.",
        "Dice is the shared part of two masks: 1 is perfect, 0 no overlap. HD95 is the distance within which 95 % of "
        "both surfaces lie from each other: smaller is better, and a value far above the organ's size means that an "
        "island was predicted far away. Dots far to the left are single patients that failed: look at them below. An "
        "organ with a wide interval needs more patients before it says anything.",
        (_organ_figure(summary, stamps), _physical(summary), _family(summary)),
    )


def case_section(summary: Summary, chosen: list[Chosen]) -> Section:
    """One row per case, sortable, with links to the cases that are shown."""
    return Section(
        "case-list",
        "Cases",
        "Every scored case. The worst, the median and the best by mean Dice are shown below with all their slices.",
        "A case whose organs are all low usually has another field of view, orientation or contrast than the training "
        "scans: look at it, and at its neighbours in this list. One low organ in a good case is an organ that is "
        "small, cut off or confused with its neighbour.",
        (_case_table(summary, chosen), _distance_table(summary)),
    )


def case_distance(case: CaseMetrics) -> float | None:
    """The mean HD95 over the organs that both masks have."""
    values = [organ.HD95 for organ in case.metrics.values() if organ.HD95 is not None]
    return fmean(values) if values else None


def organ_rows(summary: Summary) -> dict[str, list[float]]:
    """The defined Dice values per organ, one per case."""
    return {
        name: [dice for row in summary.metric_per_case if (dice := row.metrics[key].Dice) is not None]
        for key, name in summary.labels.items()
    }


def _organ_figure(summary: Summary, stamps: tuple[str, ...]) -> Figure:
    values = organ_rows(summary)
    with drawing():
        figure = Drawing(figsize=(8.5, 1.1 + 0.36 * len(values)), layout="constrained", facecolor="white")
        axes = figure.subplots()
        for place, (key, name) in enumerate(summary.labels.items()):
            dots = values[name]
            offsets = np.linspace(-_JITTER, _JITTER, len(dots)) if len(dots) > 1 else np.zeros(len(dots))
            axes.plot(dots, place + offsets, "o", color=BLUE, alpha=0.55, markersize=4.5, zorder=2)
            mean, interval = summary.mean[key].Dice, summary.intervals.mean[key].get("Dice")
            if mean is not None:
                axes.plot([mean], [place], "D", color=ORANGE, markeredgecolor="black", markersize=7, zorder=4)
            if interval is not None:
                axes.plot([interval.low, interval.high], [place, place], color="black", linewidth=2, zorder=3)
        axes.set_yticks(range(len(values)), [name.replace("_", " ") for name in values])
        axes.set_ylim(len(values) - 0.5, -0.5)
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel("Dice of the whole volume")
        axes.grid(axis="x", alpha=0.3)
        image = svg_image(figure, stamps)
    return Figure(
        "organ-figure",
        image,
        "Dice per organ: " + "; ".join(_in_words(summary, key, name) for key, name in summary.labels.items()),
        "Blue dots: cases. Diamond: mean. Black line: 95 % bootstrap interval of the mean, by patient. The numbers are "
        "in the table below.",
    )


def _in_words(summary: Summary, key: str, name: str) -> str:
    mean = summary.mean[key].Dice
    return f"{name} absent" if mean is None else f"{name} {mean:.3f}"


def _physical(summary: Summary) -> Table:
    unit = summary.distance_unit
    rows: list[tuple[Cell, ...]] = []
    for key, name in summary.labels.items():
        mean, counts, intervals = summary.mean[key], summary.counts[key], summary.intervals.mean[key]
        rows.append(
            (
                Cell(name, name),
                Cell(str(counts.scored), float(counts.scored)),
                _between(mean.Dice, intervals.get("Dice"), 3),
                _between(mean.HD95, intervals.get("HD95"), 1),
                number(mean.HD, 1),
                number(mean.ASSD, 2),
                number(mean.NSD, 3),
                Cell(str(counts.missed), float(counts.missed)),
                Cell(str(counts.absent), float(counts.absent)),
                Cell(_false_positives(summary, key), float(counts.false_positive)),
            )
        )
    mean, intervals = summary.foreground_mean, summary.intervals.foreground_mean
    rows.append(
        (
            Cell("mean", "mean"),
            Cell("", None),
            _between(mean.Dice, intervals.get("Dice"), 3),
            _between(mean.HD95, intervals.get("HD95"), 1),
            number(mean.HD, 1),
            number(mean.ASSD, 2),
            number(mean.NSD, 3),
            *(Cell("", None) for _ in range(3)),
        )
    )
    header = (
        "organ",
        "cases",
        "Dice [95 %]",
        f"HD95 {unit} [95 %]",
        f"HD {unit}",
        f"ASSD {unit}",
        f"NSD at {summary.nsd_tolerance:g} {unit}",
        "missed",
        "absent",
        "predicted though absent",
    )
    notes = (
        f"Protocol physical, distances by the convention {summary.convention}: organs absent from the reference are "
        "left out and counted; a missed organ has Dice 0 and no distance.",
    )
    return Table("organ-table", "Organs, protocol physical", header, tuple(rows), notes=notes)


def _family(summary: Summary) -> Table:
    family = summary.sam_family
    rows = [
        (
            Cell(name, name),
            _between(family.mean[key].Dice, family.intervals.mean[key].get("Dice"), 3),
            _between(family.mean[key].HD95, family.intervals.mean[key].get("HD95"), 2),
        )
        for key, name in summary.labels.items()
    ]
    mean, intervals = family.foreground_mean, family.intervals.foreground_mean
    rows.append(
        (
            Cell("mean", "mean"),
            _between(mean.Dice, intervals.get("Dice"), 3),
            _between(mean.HD95, intervals.get("HD95"), 2),
        )
    )
    notes = (
        "Protocol sam_family, the rules of the TransUNet, SAMed and H-SAM code that the tables of the SAMora paper "
        "follow: voxels instead of mm; an organ predicted though absent scores (1, 0), one missed or in neither mask "
        "(0, 0), so that a miss improves the mean distance.",
    )
    header = ("organ", "Dice [95 %]", "HD95 voxel [95 %]")
    return Table("family-table", "Organs, protocol sam_family", header, tuple(rows), notes=notes)


def _case_table(summary: Summary, chosen: list[Chosen]) -> Table:
    roles = {one.case.case: one.role for one in chosen}
    several = len(summary.folds) > 1
    header = ("case", "patient", *(("fold",) if several else ()), "mean Dice", f"mean HD95 {summary.distance_unit}")
    rows = []
    for row in summary.metric_per_case:
        role = roles.get(row.case)
        name = Cell(f"{row.case} ({role})" if role else row.case, row.case)
        fold = (Cell(row.fold or "", row.fold or ""),) if several else ()
        rows.append(
            (
                leading_to(name, f"case-{role.replace(' ', '-')}") if role else name,
                Cell(row.patient, row.patient),
                *fold,
                number(case_dice(row), 3),
                number(case_distance(row), 1),
                *(number(row.metrics[key].Dice, 3) for key in summary.labels),
            )
        )
    organs = tuple(name.replace("_", " ") for name in summary.labels.values())
    notes = ("Columns with an organ's name: its Dice; - where the organ is absent from the reference.",)
    return Table("cases", "Scored cases", (*header, *organs), tuple(rows), sortable=True, notes=notes)


def _distance_table(summary: Summary) -> Table:
    organs = tuple(name.replace("_", " ") for name in summary.labels.values())
    rows = tuple(
        (Cell(row.case, row.case), *(number(row.metrics[key].HD95, 1) for key in summary.labels))
        for row in summary.metric_per_case
    )
    caption = f"HD95 in {summary.distance_unit} per case and organ"
    return Table("distances", caption, ("case", *organs), rows, sortable=True, folded=True)


def _between(value: float | None, interval: Interval | None, digits: int) -> Cell:
    if value is None or interval is None:
        return number(value, digits)
    return Cell(f"{value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]", value)


def _false_positives(summary: Summary, key: str) -> str:
    counts = summary.counts[key]
    return f"{counts.false_positive} ({counts.false_positive_voxels} voxels)" if counts.false_positive else "0"


def dice_by_organ(summary: Summary, case: CaseMetrics) -> Mapping[str, float | None]:
    """Dice of one case per organ name."""
    return {name: case.metrics[key].Dice for key, name in summary.labels.items()}
