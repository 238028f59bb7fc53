"""Scores as tables: a CSV with one row per case and organ, and plain text for the terminal."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from samora_pipeline.command_line import aligned
from samora_pipeline.contracts.json_io import to_plain, write_json
from samora_pipeline.contracts.scores import Interval, MeanMetrics, MetricRecord, OrganCounts, SamFamilyMetrics, Summary
from samora_pipeline.escaping import csv_text
from samora_pipeline.evaluation.comparison import Protocol, distance_unit, sides
from samora_pipeline.evaluation.significance import ranking_remark
from samora_pipeline.evaluation.summary import described
from samora_pipeline.files import write_text
from samora_pipeline.registry import shortened

ScoreRow = tuple[str, str, tuple[tuple[float | None, Interval | None], ...]]

NO_INTERVAL = frozenset({"HD", "ASSD", "NSD", "HD95_penalised"})
"""metrics whose intervals are in summary.json and would make the tables too wide"""


def score_frame(summary: Summary) -> pd.DataFrame:
    """Return one row per case and organ; distance columns carry their unit, undefined scores are empty."""
    families = {row.case: row.metrics for row in summary.sam_family.metric_per_case}
    unit = {one.name: f"_{summary.distance_unit}" for one in described(summary) if one.distance}
    in_voxels = dict.fromkeys(unit, "_voxel")
    rows = [
        {"case": row.case, "patient": row.patient, "fold": row.fold, "organ": name, "label": key}
        | {f"{metric}{unit.get(metric, '')}": value for metric, value in _flat(row.metrics[key])}
        | {f"sam_family_{metric}{in_voxels.get(metric, '')}": value for metric, value in _flat(families[row.case][key])}
        for row in summary.metric_per_case
        for key, name in summary.labels.items()
    ]
    return pd.DataFrame(rows)


def write_summary(summary: Summary, path: Path) -> Path:
    """Write ``path`` (summary.json) and the CSV of the same name beside it; return the path of the CSV."""
    table = path.with_suffix(".csv")
    write_text(table, csv_text(score_frame(summary)))
    write_json(summary, path)
    return table


def render(summary: Summary) -> str:
    """Return both protocols as text: one line per organ and one for the mean, with n and intervals."""
    patients = f"{summary.bootstrap.n} patient{'s' * (summary.bootstrap.n != 1)}"
    head = f"{summary.n} case{'s' * (summary.n != 1)} of {patients}; [95 % bootstrap interval of the mean, by patient]"
    physical = (
        f"protocol physical, convention {summary.convention}: absent organs are left out; a missed organ has Dice 0, "
        "no distance, and the diagonal of its volume under HD95 penalised"
    )
    family = "protocol sam_family: voxels; predicted though absent is (1, 0), missed or in neither mask is (0, 0)"
    blocks = [head, "", _protocol(summary, "physical", physical), "", _protocol(summary, "sam_family", family)]
    if summary.warnings:
        blocks.insert(0, f"*** {' | '.join(summary.warnings)} ***")
    if remark := ranking_remark(summary.bootstrap.n):
        blocks += ["", remark]
    if summary.unscored_predictions:
        blocks += ["", f"not scored, no reference: {shortened(summary.unscored_predictions)}"]
    return "\n".join(blocks)


def score_rows(summary: Summary, protocol: Protocol) -> tuple[tuple[MetricRecord, ...], list[ScoreRow]]:
    """Return the metrics of a table, and a row per organ, the mean over organs last, with an empty key.

    A row: key and name of the organ, and for every metric the value and its interval.
    """
    side = sides(summary)[protocol]
    columns = tuple(one for one in described(summary) if one.tabled and side.foreground_mean.has(one.name))
    rows = [
        (key, name, tuple((means.value(one.name), intervals.get(one.name)) for one in columns))
        for key, name, means, intervals in (
            *((key, name, side.mean[key], side.intervals.mean[key]) for key, name in summary.labels.items()),
            ("", "mean", side.foreground_mean, side.intervals.foreground_mean),
        )
    ]
    return columns, rows


def heading(metric: MetricRecord, summary: Summary, protocol: Protocol = "physical") -> str:
    """The name of a metric over a column, with its unit or its tolerance."""
    unit = distance_unit(summary, protocol)
    if metric.name == "NSD":
        return f"NSD@{summary.nsd_tolerance:g}{unit}"
    return f"{metric.name.replace('_', ' ')} {unit if metric.distance else ''}".rstrip()


def _protocol(summary: Summary, protocol: Protocol, title: str) -> str:
    columns, rows = score_rows(summary, protocol)
    family = protocol == "sam_family"
    body = [("organ", "n", *(heading(one, summary, protocol) for one in columns), "")]
    for key, name, scores in rows:
        counts = summary.counts.get(key)
        scored = "" if counts is None else str(summary.n if family else counts.scored)
        texts = (score_text(one, *score) for one, score in zip(columns, scores, strict=True))
        body.append((name, scored, *texts, "" if counts is None or family else _remark(counts)))
    return "\n".join([title, *aligned(body)])


def _remark(counts: OrganCounts) -> str:
    parts = {
        f"missed in {counts.missed}": counts.missed,
        f"absent in {counts.absent}": counts.absent,
        f"predicted in {counts.false_positive} of these, {counts.false_positive_voxels} voxels": counts.false_positive,
    }
    return ", ".join(part for part, count in parts.items() if count)


def number_text(value: float | None, digits: int) -> str:
    """A number, or ``-`` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def score_text(metric: MetricRecord, value: float | None, interval: Interval | None) -> str:
    """A score, with its interval where the tables have room for it."""
    digits = metric.digits
    if value is None or interval is None or metric.name in NO_INTERVAL:
        return number_text(value, digits)
    return f"{value:.{digits}f} [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def _flat(metrics: MeanMetrics | SamFamilyMetrics) -> Iterator[tuple[str, float | None]]:
    plain = to_plain(metrics)
    yield from (plain | plain.pop("further")).items()
