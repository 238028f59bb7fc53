"""From the scores of cases to a summary: means, counts, intervals; and one summary over the folds of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.run import SUMMARY_FILE
from samora_pipeline.contracts.scores import (
    NSD_TOLERANCE,
    Bootstrap,
    CaseMetrics,
    Convention,
    DistanceUnit,
    Interval,
    Intervals,
    MetricRecord,
    SamFamilyCase,
    SamFamilySummary,
    Summary,
)
from samora_pipeline.errors import DataError
from samora_pipeline.evaluation.metric import FIXED, scored_metrics
from samora_pipeline.evaluation.protocols import (
    count,
    label_key,
    mean_over_cases,
    mean_over_labels,
    sam_family_mean,
)
from samora_pipeline.evaluation.scoring import CaseScores
from samora_pipeline.evaluation.significance import Resampler, resampler


def label_names(scheme: LabelScheme) -> dict[str, str]:
    """The name of each label key, in the order of the scheme."""
    return {label_key(values): name for name, values in scheme.foreground}


def summarize(
    cases: Sequence[CaseScores],
    labels: Mapping[str, str],
    *,
    tolerance: float = NSD_TOLERANCE,
    distance_unit: DistanceUnit = "mm",
    convention: Convention = "medpy",
    stamps: tuple[str, ...] = (),
    unscored: tuple[str, ...] = (),
    metrics: Sequence[MetricRecord] | None = None,
) -> Summary:
    """Summarize at least one case; ``labels`` names each label key, ``tolerance`` is that of the scored NSD.

    ``metrics`` describes all scores, by default those of the registered metrics.
    """
    records = [metric.record for metric in scored_metrics()] if metrics is None else metrics
    rows, families = [case.physical for case in cases], [case.sam_family for case in cases]
    patients = [row.patient for row in rows]
    bootstrap = Bootstrap(n=len(set(patients)))
    draws = resampler(patients, bootstrap)
    means = {key: mean_over_cases([row.metrics[key] for row in rows]) for key in labels}
    family = {key: sam_family_mean(row.metrics[key] for row in families) for key in labels}
    return Summary(
        stamps=stamps,
        n=len(cases),
        labels=dict(labels),
        distance_unit=distance_unit,
        convention=convention,
        nsd_tolerance=tolerance,
        foreground_mean=mean_over_labels(means),
        mean=means,
        counts={key: count([row.metrics[key] for row in rows]) for key in labels},
        bootstrap=bootstrap,
        intervals=_intervals(draws, rows, labels, records),
        sam_family=SamFamilySummary(
            foreground_mean=sam_family_mean(family.values()),
            mean=family,
            intervals=_intervals(draws, families, labels, records),
            metric_per_case=tuple(families),
        ),
        metric_per_case=tuple(rows),
        unscored_predictions=unscored,
        folds=tuple(sorted({row.fold for row in rows if row.fold is not None})),
        metrics=tuple(record for record in records if record.name not in FIXED),
    )


def sum_up_folds(run: Path) -> Summary:
    """One summary over the numbered folds of a run (cross-validation), one row per case.

    The folds ``official`` and ``all`` score other cases by another rule and are left out.

    Raises:
        DataError: ``E-EVAL-05`` when a fold has no summary.json, when folds were scored differently, or when a case
            was scored in two of them.
    """
    folders = sorted(folder for folder in run.glob("fold_*") if folder.name.removeprefix("fold_").isdigit())
    if not folders:
        raise DataError(
            "E-EVAL-05",
            f"{run} has no numbered folds",
            found="no folder fold_0, fold_1, ...",
            expected=f"fold_0, fold_1, ... each with a {SUMMARY_FILE}",
            fix="samora_train DATASET TRAINER SPLIT -f 0",
        )
    if unfinished := [folder.name for folder in folders if not (folder / SUMMARY_FILE).is_file()]:
        raise DataError(
            "E-EVAL-05",
            f"the folds of {run} are not all scored",
            found=f"no {SUMMARY_FILE} in {', '.join(unfinished)}",
            expected=f"fold_0, fold_1, ... each with a {SUMMARY_FILE}",
            fix="samora_train DATASET TRAINER SPLIT -f FOLD  for each missing fold",
        )
    summaries = {folder.name.removeprefix("fold_"): read_json(Summary, folder / SUMMARY_FILE) for folder in folders}
    cases = [row for fold, summary in summaries.items() for row in _rows(summary, fold)]
    first = next(iter(summaries.values()))
    _check_folds(run, summaries, cases)
    return summarize(
        cases,
        first.labels,
        tolerance=first.nsd_tolerance,
        distance_unit=first.distance_unit,
        convention=first.convention,
        stamps=tuple(dict.fromkeys(stamp for summary in summaries.values() for stamp in summary.stamps)),
        metrics=described(first),
    )


def described(summary: Summary) -> tuple[MetricRecord, ...]:
    """All metrics of a summary: those that this package has fields for, then those that the summary describes."""
    return (*(own.record for own in scored_metrics() if own.record.name in FIXED), *summary.metrics)


def _intervals(
    draws: Resampler,
    cases: Sequence[CaseMetrics] | Sequence[SamFamilyCase],
    labels: Mapping[str, str],
    records: Sequence[MetricRecord],
) -> Intervals:
    overall: dict[str, Interval | None] = {}
    per_label: dict[str, dict[str, Interval | None]] = {key: {} for key in labels}
    for name in (record.name for record in records if any(one.has(record.name) for one in cases[0].metrics.values())):
        # None becomes NaN: no score.
        values = np.array([[case.metrics[key].value(name) for key in labels] for case in cases], dtype=np.float64)
        overall[name], listed = draws.intervals(values)
        for key, interval in zip(labels, listed, strict=True):
            per_label[key][name] = interval
    return Intervals(overall, per_label)


def _rows(summary: Summary, fold: str) -> list[CaseScores]:
    families = {row.case: row for row in summary.sam_family.metric_per_case}
    return [CaseScores(replace(row, fold=fold), families[row.case]) for row in summary.metric_per_case]


def _check_folds(run: Path, summaries: Mapping[str, Summary], cases: Sequence[CaseScores]) -> None:
    settings = {
        (str(one.labels), one.nsd_tolerance, one.distance_unit, one.convention, one.metrics)
        for one in summaries.values()
    }
    twice = [case for case, times in Counter(case.physical.case for case in cases).items() if times > 1]
    if len(settings) > 1 or twice:
        raise DataError(
            "E-EVAL-05",
            what=f"the folds of {run} cannot be summed up",
            found=f"scored in two folds: {', '.join(twice)}" if twice else " | ".join(str(one) for one in settings),
            expected="each case in one fold, and the same labels, tolerance, unit, convention and metrics in all",
            fix="samora_evaluate -g LABELS -p RUN/fold_K/validation -o RUN/fold_K/summary.json  scores a fold again",
        )
