"""Runs compared patient by patient: which may be compared, and the paired differences with their tests.

A variant is one experiment: a run, or several that differ in the seed alone. Seeds are averaged within each case and
organ before anything is compared. A patient's score is the mean over the patient's cases in which both variants have
one; the row ``mean`` takes the mean over a patient's organs.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal

from samora_pipeline.contracts.scores import MetricRecord, SamFamilySummary, Summary
from samora_pipeline.errors import DataError
from samora_pipeline.evaluation.run_scores import ScoredRun
from samora_pipeline.evaluation.significance import PairedTest, holm, paired_test
from samora_pipeline.evaluation.summary import described
from samora_pipeline.registry import shortened

Protocol = Literal["physical", "sam_family"]
PROTOCOLS: tuple[Protocol, ...] = ("physical", "sam_family")
MEAN = "mean"

Scores = Mapping[tuple[str, str], float | None]


@dataclass(frozen=True)
class Variant:
    """One experiment under one name: its runs differ in the seed alone."""

    label: str
    runs: tuple[ScoredRun, ...]

    @property
    def first(self) -> ScoredRun:
        """The run whose records speak for all."""
        return self.runs[0]


@dataclass(frozen=True)
class PairedRow:
    """One variant against the baseline in one organ (or ``mean``): both means over the same ``test.n`` patients.

    ``holm_t`` and ``holm_wilcoxon`` are adjusted over the rows of the family that the row is printed with.
    """

    variant: str
    organ: str
    baseline_mean: float | None
    variant_mean: float | None
    test: PairedTest
    holm_t: float | None = None
    holm_wilcoxon: float | None = None


@dataclass(frozen=True)
class PairedTable:
    """All comparisons of one metric: ``overall`` over the organs' mean, ``organs`` per organ, each a family.

    ``budgets`` says by variant where it was fine-tuned for longer or shorter than the baseline.
    """

    protocol: Protocol
    record: MetricRecord
    unit: str
    baseline: str
    overall: tuple[PairedRow, ...]
    organs: tuple[PairedRow, ...]
    budgets: Mapping[str, str] = field(default_factory=dict)


def distance_unit(summary: Summary, protocol: Protocol) -> str:
    """The unit of distances."""
    return "voxel" if protocol == "sam_family" else summary.distance_unit


def sides(summary: Summary) -> dict[Protocol, Summary | SamFamilySummary]:
    """The scores of each protocol; both have ``foreground_mean``, ``mean``, ``intervals`` and ``metric_per_case``."""
    return {"physical": summary, "sam_family": summary.sam_family}


def group_seeds(runs: Sequence[ScoredRun]) -> list[Variant]:
    """Runs that differ in the seed alone become one variant, unless nothing would be left to compare."""
    groups: dict[str, list[ScoredRun]] = {}
    for run in runs:
        groups.setdefault(run.identity, []).append(run)
    variants = []
    for group in groups.values():
        seeds = {run.config.seed for run in group}
        if 1 < len(group) == len(seeds) and len(groups) > 1:
            variants.append(Variant(f"{group[0].label} ({len(group)} seeds)", tuple(group)))
        else:
            variants += [Variant(run.label, (run,)) for run in group]
    order = {run.label: place for place, run in enumerate(runs)}
    return sorted(variants, key=lambda variant: order[variant.first.label])


def check_comparable(runs: Sequence[ScoredRun], *, same_split: bool = True) -> None:
    """Refuse runs that were scored on other cases or by other rules.

    Raises:
        DataError: ``E-CMP-03`` with every difference named.
    """
    first, found = runs[0], []
    for run in runs[1:]:
        own, other = (_rules(one, same_split) for one in (first, run))
        found += [
            f"{name}: {value} in {first.label}, {other[name]} in {run.label}"
            for name, value in own.items()
            if value != other[name]
        ]
        found += _scored(first, run)
    if found:
        raise DataError("E-CMP-03", found="".join(f"\n    {line}" for line in dict.fromkeys(found)))


def compare(variants: Sequence[Variant], baseline: Variant, protocol: Protocol) -> list[PairedTable]:
    """Compare every other variant with the baseline; metrics in which no patient has a pair are left out.

    Raises:
        DataError: ``E-CMP-03`` for runs that were not scored alike.
    """
    check_comparable([baseline.first, *(run for variant in variants for run in variant.runs)])
    summary = baseline.first.summary
    compared = [
        one for one in described(summary) if one.compared and sides(summary)[protocol].foreground_mean.has(one.name)
    ]
    tables = [_table(variants, baseline, protocol, metric) for metric in compared]
    return [table for table in tables if any(row.test.n for row in table.overall)]


def _table(variants: Sequence[Variant], baseline: Variant, protocol: Protocol, metric: MetricRecord) -> PairedTable:
    summary = baseline.first.summary
    own = _variant_scores(baseline, protocol, metric.name)
    overall, organs = [], []
    for variant in (variant for variant in variants if variant.label != baseline.label):
        pairs = _patient_pairs(own, _variant_scores(variant, protocol, metric.name), summary)
        overall.append(_row(variant.label, MEAN, [_mean_pair(by_organ.values()) for by_organ in pairs.values()]))
        organs += [
            _row(variant.label, name, [by_organ[key] for by_organ in pairs.values() if key in by_organ])
            for key, name in summary.labels.items()
        ]
    unit = distance_unit(summary, protocol) if metric.distance else ""
    budgets = {one.label: remark for one in variants if (remark := _budgets(one.first, baseline.first))}
    return PairedTable(protocol, metric, unit, baseline.label, _adjusted(overall), _adjusted(organs), budgets)


def _budgets(run: ScoredRun, baseline: ScoredRun) -> str:
    """``budgets differ: 324 against 120 steps``; empty where they do not, or are not known."""
    (mine, unit), (theirs, other) = (one.budget.split(" ") if one.budget else ("", "") for one in (run, baseline))
    if not (unit and other) or run.budget == baseline.budget:
        return ""
    return f"budgets differ: {mine}{'' if unit == other else f' {unit}'} against {theirs} {other}"


def _row(variant: str, organ: str, pairs: Sequence[tuple[float, float]]) -> PairedRow:
    test = paired_test([other - own for own, other in pairs])
    if not pairs:
        return PairedRow(variant, organ, None, None, test)
    return PairedRow(variant, organ, fmean(own for own, _ in pairs), fmean(other for _, other in pairs), test)


def _adjusted(rows: Sequence[PairedRow]) -> tuple[PairedRow, ...]:
    t_values, wilcoxon = holm([row.test.t_p for row in rows]), holm([row.test.wilcoxon_p for row in rows])
    return tuple(replace(row, holm_t=t, holm_wilcoxon=w) for row, t, w in zip(rows, t_values, wilcoxon, strict=True))


def _patient_pairs(own: Scores, other: Scores, summary: Summary) -> dict[str, dict[str, tuple[float, float]]]:
    """Patient -> label -> (baseline, variant), each a mean over the patient's cases in which both are defined."""
    cases: dict[str, list[str]] = {}
    for row in summary.metric_per_case:
        cases.setdefault(row.patient, []).append(row.case)
    result: dict[str, dict[str, tuple[float, float]]] = {}
    for patient, names in cases.items():
        for key in summary.labels:
            pairs = [(own[case, key], other[case, key]) for case in names]
            defined = [(a, b) for a, b in pairs if a is not None and b is not None]
            if defined:
                result.setdefault(patient, {})[key] = _mean_pair(defined)
    return result


def _mean_pair(pairs: Iterable[tuple[float, float]]) -> tuple[float, float]:
    listed = list(pairs)
    return fmean(a for a, _ in listed), fmean(b for _, b in listed)


def _variant_scores(variant: Variant, protocol: Protocol, metric: str) -> Scores:
    seeds = [
        {
            (row.case, key): row.metrics[key].value(metric)
            for row in sides(run.summary)[protocol].metric_per_case
            for key in run.summary.labels
        }
        for run in variant.runs
    ]
    means: dict[tuple[str, str], float | None] = {}
    for place in seeds[0]:
        defined = [value for seed in seeds if (value := seed[place]) is not None]
        means[place] = fmean(defined) if defined else None
    return means


def _rules(run: ScoredRun, same_split: bool) -> dict[str, object]:
    summary = run.summary
    return {
        "dataset": run.config.dataset,
        **({"split": run.config.split} if same_split else {}),
        "folds": ", ".join(run.folds),
        "labels": ", ".join(summary.labels.values()),
        "tolerance of the NSD": summary.nsd_tolerance,
        "unit of distances": summary.distance_unit,
        "convention": summary.convention,
    }


def _scored(one: ScoredRun, other: ScoredRun) -> list[str]:
    """Cases that only one of them scored, and cases whose patient or reference differ."""
    first, second = ({row.case: row for row in run.summary.metric_per_case} for run in (one, other))
    found = [
        f"cases scored in {run.label} only: {shortened(sorted(surplus))}"
        for run, surplus in ((one, first.keys() - second.keys()), (other, second.keys() - first.keys()))
        if surplus
    ]
    both = sorted(first.keys() & second.keys())
    if strangers := [case for case in both if first[case].patient != second[case].patient]:
        found.append(f"patients of {shortened(strangers)} between {one.label} and {other.label}")
    changed = [
        case
        for case in both
        for key in first[case].metrics.keys() & second[case].metrics.keys()
        if first[case].metrics[key].n_ref != second[case].metrics[key].n_ref
    ]
    if changed:
        found.append(f"references of {shortened(dict.fromkeys(changed))} between {one.label} and {other.label}")
    return found
