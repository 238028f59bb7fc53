"""Scores as tables: a CSV with one row per case and organ, and plain text for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.contracts.scores import Interval, MeanMetrics, OrganCounts, Summary
from samora_pipeline.evaluation.significance import ranking_remark
from samora_pipeline.files import write_text

_DISTANCES = ("HD95", "HD", "ASSD", "HD95_penalised")


def score_frame(summary: Summary) -> pd.DataFrame:
    """Return one row per case and organ; distance columns carry their unit, undefined scores are empty."""
    family = {row.case: row.metrics for row in summary.sam_family.metric_per_case}
    unit = {name: f"{name}_{summary.distance_unit}" for name in _DISTANCES}
    rows = [
        {"case": row.case, "patient": row.patient, "fold": row.fold, "organ": name, "label": key}
        | {unit.get(metric, metric): value for metric, value in asdict(row.metrics[key]).items()}
        | {"sam_family_Dice": family[row.case][key].Dice, "sam_family_HD95_voxel": family[row.case][key].HD95}
        for row in summary.metric_per_case
        for key, name in summary.labels.items()
    ]
    return pd.DataFrame(rows)


def write_summary(summary: Summary, path: Path) -> Path:
    """Write ``path`` (summary.json) and the CSV of the same name beside it; return the path of the CSV."""
    table = path.with_suffix(".csv")
    write_text(table, score_frame(summary).to_csv(index=False))
    write_json(summary, path)
    return table


def render(summary: Summary) -> str:
    """Return both protocols as text: one line per organ and one for the mean, with n and intervals."""
    patients = f"{summary.bootstrap.n} patient{'s' * (summary.bootstrap.n != 1)}"
    head = f"{summary.n} case{'s' * (summary.n != 1)} of {patients}; [95 % bootstrap interval of the mean, by patient]"
    blocks = [head, "", _physical(summary), "", _sam_family(summary)]
    if summary.stamps:
        blocks.insert(0, f"*** {' | '.join(summary.stamps)} ***")
    if remark := ranking_remark(summary.bootstrap.n):
        blocks += ["", remark]
    if summary.unscored_predictions:
        blocks += ["", f"not scored, no reference: {', '.join(summary.unscored_predictions)}"]
    return "\n".join(blocks)


def _physical(summary: Summary) -> str:
    unit = summary.distance_unit
    header = (
        "organ",
        "n",
        "Dice",
        f"HD95 {unit}",
        f"HD {unit}",
        f"ASSD {unit}",
        f"NSD@{summary.nsd_tolerance:g}{unit}",
        "HD95 penalised",
    )
    intervals = summary.intervals
    rows = [
        (
            name,
            str(summary.counts[key].scored),
            *_scores(summary.mean[key], intervals.mean[key]),
            _remark(summary.counts[key]),
        )
        for key, name in summary.labels.items()
    ]
    mean = ("mean", "", *_scores(summary.foreground_mean, intervals.foreground_mean), "")
    title = (
        f"protocol physical, convention {summary.convention}: absent organs are left out; a missed organ has Dice 0, "
        "no distance, and the diagonal of its volume under HD95 penalised"
    )
    return _table(title, (*header, ""), [*rows, mean])


def _sam_family(summary: Summary) -> str:
    family = summary.sam_family
    rows = [
        (
            name,
            str(summary.n),
            _with_interval(family.mean[key].Dice, family.intervals.mean[key]["Dice"], 3),
            _with_interval(family.mean[key].HD95, family.intervals.mean[key]["HD95"], 2),
        )
        for key, name in summary.labels.items()
    ]
    mean = (
        "mean",
        "",
        _with_interval(family.foreground_mean.Dice, family.intervals.foreground_mean["Dice"], 3),
        _with_interval(family.foreground_mean.HD95, family.intervals.foreground_mean["HD95"], 2),
    )
    title = "protocol sam_family: voxels; predicted though absent is (1, 0), missed or in neither mask is (0, 0)"
    return _table(title, ("organ", "n", "Dice", "HD95 voxel"), [*rows, mean])


def _scores(mean: MeanMetrics, intervals: dict[str, Interval | None]) -> tuple[str, ...]:
    return (
        _with_interval(mean.Dice, intervals["Dice"], 3),
        _with_interval(mean.HD95, intervals["HD95"], 2),
        _number(mean.HD, 2),
        _number(mean.ASSD, 2),
        _number(mean.NSD, 3),
        _number(mean.HD95_penalised, 2),
    )


def _remark(counts: OrganCounts) -> str:
    parts = []
    if counts.missed:
        parts.append(f"missed in {counts.missed}")
    if counts.absent:
        parts.append(f"absent in {counts.absent}")
    if counts.false_positive:
        parts.append(f"predicted in {counts.false_positive} of these, {counts.false_positive_voxels} voxels")
    return ", ".join(parts)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _with_interval(value: float | None, interval: Interval | None, digits: int) -> str:
    if value is None or interval is None:
        return _number(value, digits)
    return f"{value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    aligned = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return "\n".join([title, *aligned])
