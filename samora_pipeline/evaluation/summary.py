"""Summaries, the content of summary.json: of scored cases, of a folder of predictions, and of the folds of a run.

A folder is scored with all that the files around it say: dataset.json (or the command line) gives the labels,
samora.json beside it the patients and whether spacing is known; run.json in the folder of predictions, or config.json
of the fold they validate, gives the warnings and the cases to be scored.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from samora_pipeline.contracts import scores as schema
from samora_pipeline.contracts.dataset import SamoraJson, read_dataset_json, read_samora_json
from samora_pipeline.contracts.failures import printable
from samora_pipeline.contracts.json_io import parse, read_json, read_object
from samora_pipeline.contracts.labels import BACKGROUND, IGNORE, LabelScheme, label_scheme
from samora_pipeline.contracts.run import CONFIG_FILE, PHANTOM_FLAG, SUMMARY_FILE, VALIDATION_FOLDER, RunConfig
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.errors import DataError, SamoraError, UsageError
from samora_pipeline.evaluation.metric import FIXED, count, label_key, physical_mean, sam_family_mean, scored_metrics
from samora_pipeline.evaluation.scoring import (
    CaseScores,
    Files,
    Rules,
    label_values,
    pair_files,
    score_files,
    states_spacing,
)
from samora_pipeline.evaluation.significance import Resampler, resampler
from samora_pipeline.parallel import SERIAL, Engine
from samora_pipeline.registry import shortened


def label_names(scheme: LabelScheme) -> dict[str, str]:
    """The name of each label key, in the order of the scheme."""
    return {label_key(values): name for name, values in scheme.foreground}


def summarize(
    cases: Sequence[CaseScores],
    labels: Mapping[str, str],
    *,
    tolerance: float = schema.NSD_TOLERANCE,
    distance_unit: schema.DistanceUnit = "mm",
    convention: schema.Convention = "medpy",
    warnings: tuple[str, ...] = (),
    unscored: tuple[str, ...] = (),
    metrics: Sequence[schema.MetricRecord] | None = None,
) -> schema.Summary:
    """Summarize at least one case; ``labels`` names each label key, ``tolerance`` is that of the scored NSD.

    ``metrics`` describes all scores, by default those of the registered metrics.
    """
    records = [metric.record for metric in scored_metrics()] if metrics is None else metrics
    rows, families = [case.physical for case in cases], [case.sam_family for case in cases]
    patients = [row.patient for row in rows]
    bootstrap = schema.Bootstrap(n=len(set(patients)))
    draws = resampler(patients, bootstrap)
    means = {key: physical_mean(row.metrics[key] for row in rows) for key in labels}
    family = {key: sam_family_mean(row.metrics[key] for row in families) for key in labels}
    return schema.Summary(
        warnings=warnings,
        n=len(cases),
        labels=dict(labels),
        distance_unit=distance_unit,
        convention=convention,
        nsd_tolerance=tolerance,
        foreground_mean=physical_mean(means.values()),
        mean=means,
        counts={key: count([row.metrics[key] for row in rows]) for key in labels},
        bootstrap=bootstrap,
        intervals=_intervals(draws, rows, labels, records),
        sam_family=schema.SamFamilySummary(
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


def score_folder(
    references: Path,
    predictions: Path,
    labels: Path | LabelScheme | None = None,
    tolerance: float = schema.NSD_TOLERANCE,
    engine: Engine = SERIAL,
    convention: schema.Convention = "medpy",
    metrics: tuple[str, ...] = (),
    subset: tuple[str, ...] | None = None,
    failed: MutableMapping[str, SamoraError] | None = None,
) -> schema.Summary:
    """Score every reference, or, in a fold's validation folder, the cases of that fold; nothing is written.

    ``labels`` is a dataset.json or the scheme itself; by default dataset.json is looked for beside ``references``, in
    it, and in ``predictions`` (where nnU-Net leaves a copy); where there is none, each value that occurs is a label by
    itself, called ``1``, ``2``, ... ``tolerance`` of the NSD is in mm. ``metrics`` names more metrics than the
    registered ones, as ``package.module:Class``. ``subset`` names the only cases to be scored. ``failed`` takes the
    cases that cannot be scored, which the summary then names; None: such a case stops all. Distances are in voxels
    where a reference states no spacing.

    Raises:
        UsageError: ``E-EVAL-08`` for a folder that is not there, ``E-NAME-01`` for a name that leads to no metric.
        DataError: ``E-EVAL-07`` when nothing is labelled and nothing says which labels there are, ``E-EVAL-01`` for
            missing files, ``E-EVAL-09`` for names in ``subset`` without a reference,
            ``E-EVAL-04`` naming every case that cannot be scored.
    """
    for folder in (references, predictions):
        if not folder.is_dir():
            raise UsageError("E-EVAL-08", folder=folder)
    records = [metric.record for metric in scored_metrics(metrics)]
    scheme, file_ending, ours = _describe(labels, references, predictions)
    config = _fold_config(predictions)
    wanted = subset or (config.scored if config else None)
    files, unscored = pair_files(references, predictions, file_ending, wanted, named=subset is not None)
    if scheme is None:
        scheme = value_scheme(files, engine)
    known = ours.spacing_known and all(states_spacing(pair.reference) for pair in files)
    rules = Rules(scheme, tolerance, known, convention, metrics)
    cases = score_files(files, rules, ours.patients, config.fold if config else None, engine, failed)
    warnings = [f"NOT SCORED: {shortened(map(printable, sorted(failed)))}"] if failed else []
    warnings += [PHANTOM_FLAG] * ours.phantom + list(config.warnings if config else _recorded_flags(predictions))
    return summarize(
        cases,
        label_names(scheme),
        tolerance=tolerance,
        distance_unit="mm" if known else "voxel",
        convention=convention,
        warnings=tuple(dict.fromkeys(warnings)),
        unscored=() if subset else unscored,
        metrics=records,
    )


def value_scheme(files: Sequence[Files], engine: Engine = SERIAL) -> LabelScheme:
    """The scheme of label maps that nothing describes: every value but 0 in any of the files, named by itself.

    Raises:
        DataError: ``E-EVAL-07`` no value occurs.
    """
    values = sorted(label_values(files, engine))
    if not values:
        raise DataError("E-EVAL-07", found=f"only 0 in {len(files)} references and their predictions")
    return LabelScheme({str(value): (value,) for value in values})


def named_labels(names: Sequence[str]) -> LabelScheme:
    """The scheme of ``NAME=VALUE`` words; ``whole=1+2`` is a region, ``ignore=9`` carries no score.

    Raises:
        UsageError: ``E-ARG-17`` for a word of another form.
        DataError: ``E-LABEL-01`` for values that contradict each other.
    """
    labels: dict[str, int | tuple[int, ...]] = {BACKGROUND: 0}
    for word in names:
        name, _, values = word.partition("=")
        if not name or not all(value.isdigit() for value in values.split("+")):
            raise UsageError("E-ARG-17", found=word)
        listed = tuple(int(value) for value in values.split("+"))
        labels[name] = listed if len(listed) > 1 else listed[0]
    if not any(isinstance(values, tuple) for values in labels.values()):
        return label_scheme(labels, None)
    # A scheme with regions declares the order in which they are painted. Scores do not depend on it.
    painted = [name for name in labels if name not in (BACKGROUND, IGNORE)]
    return label_scheme(labels, tuple(range(1, len(painted) + 1)))


def sum_up_folds(run: Path) -> schema.Summary:
    """One summary over the numbered folds of a run (cross-validation), one row per case.

    The folds ``official`` and ``all`` score other cases by another rule and are left out.

    Raises:
        DataError: ``E-EVAL-05`` when a fold has no summary.json, when folds were scored differently, or when a case
            was scored in two of them.
    """
    folds = sorted(fold for folder in run.glob("fold_*") if (fold := folder.name.removeprefix("fold_")).isdigit())
    paths = {fold: run / f"fold_{fold}" / SUMMARY_FILE for fold in folds}
    unfinished = [path.parent.name for path in paths.values() if not path.is_file()]
    if unfinished or not folds:
        found = f"no {SUMMARY_FILE} in {shortened(unfinished)}" if unfinished else "no folder fold_0, fold_1, ..."
        raise DataError("E-EVAL-05", run=run, found=found)
    summaries = {fold: read_json(schema.Summary, path) for fold, path in paths.items()}
    cases = [row for fold, summary in summaries.items() for row in _rows(summary, fold)]
    first = next(iter(summaries.values()))
    _check_folds(run, summaries, cases)
    return summarize(
        cases,
        first.labels,
        tolerance=first.nsd_tolerance,
        distance_unit=first.distance_unit,
        convention=first.convention,
        warnings=tuple(dict.fromkeys(warning for summary in summaries.values() for warning in summary.warnings)),
        metrics=described(first),
    )


def described(summary: schema.Summary) -> tuple[schema.MetricRecord, ...]:
    """All metrics of a summary: those that this package has fields for, then those that the summary describes."""
    return (*(own.record for own in scored_metrics() if own.record.name in FIXED), *summary.metrics)


def _intervals(
    draws: Resampler,
    cases: Sequence[schema.CaseMetrics] | Sequence[schema.SamFamilyCase],
    labels: Mapping[str, str],
    records: Sequence[schema.MetricRecord],
) -> schema.Intervals:
    overall: dict[str, schema.Interval | None] = {}
    per_label: dict[str, dict[str, schema.Interval | None]] = {key: {} for key in labels}
    for name in (record.name for record in records if any(one.has(record.name) for one in cases[0].metrics.values())):
        # None becomes NaN: no score.
        values = np.array([[case.metrics[key].value(name) for key in labels] for case in cases], dtype=np.float64)
        overall[name], listed = draws.intervals(values)
        for key, interval in zip(labels, listed, strict=True):
            per_label[key][name] = interval
    return schema.Intervals(overall, per_label)


def _rows(summary: schema.Summary, fold: str) -> list[CaseScores]:
    families = {row.case: row for row in summary.sam_family.metric_per_case}
    return [CaseScores(replace(row, fold=fold), families[row.case]) for row in summary.metric_per_case]


def _check_folds(run: Path, summaries: Mapping[str, schema.Summary], cases: Sequence[CaseScores]) -> None:
    settings = {
        (str(one.labels), one.nsd_tolerance, one.distance_unit, one.convention, one.metrics)
        for one in summaries.values()
    }
    twice = [case for case, times in Counter(case.physical.case for case in cases).items() if times > 1]
    if len(settings) > 1 or twice:
        found = f"scored in two folds: {shortened(twice)}" if twice else " | ".join(str(one) for one in settings)
        raise DataError("E-EVAL-05", run=run, found=found)


def _describe(
    labels: Path | LabelScheme | None, references: Path, predictions: Path
) -> tuple[LabelScheme | None, str | None, SamoraJson]:
    """What the labels mean where anything says it, the ending of the files where it is known, and samora.json."""
    beside = references.resolve().parent
    ours = read_samora_json(beside)
    if isinstance(labels, LabelScheme):
        return labels, None, ours
    if labels is None:
        places = (beside, references, predictions)
        labels = next((path for place in places if (path := place / "dataset.json").is_file()), None)
        if labels is None:
            return None, None, ours
    description = read_dataset_json(labels)
    own = read_samora_json(labels.resolve().parent)
    return description.scheme, description.file_ending, own if own != SamoraJson() else ours


def _fold_config(predictions: Path) -> RunConfig | None:
    folder = predictions.resolve()
    path = folder.parent / CONFIG_FILE
    # Its cases and its warnings are read; nothing is built from what it names.
    return read_run_config(path, allow_code=True) if folder.name == VALIDATION_FOLDER and path.is_file() else None


def _recorded_flags(predictions: Path) -> Iterable[str]:
    # A prediction that was made in shares has one record per share: run.json or run.1_of_4.json, ...
    for path in sorted(predictions.glob("run*.json")):
        record = read_object(path)
        if isinstance(record, dict) and "warnings" in record:
            yield from parse(tuple[str, ...], record["warnings"], f"{path}.warnings")
