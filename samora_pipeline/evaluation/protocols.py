"""The two protocols under which a measurement becomes scores, and their means.

``physical``: distances in mm. An organ absent from the reference is left out of every mean and counted, predicted or
not; a missed organ has Dice, IoU and NSD 0, no distances, and is counted. Its ``HD95_penalised`` is the diagonal of the
volume.

``sam_family``: the rules of the TransUNet, SAMed and H-SAM code, and so of the tables of the SAMora paper. HD95 is in
voxels. Both masks filled: (Dice, HD95); only the prediction: (1, 0); otherwise, a missed organ or one that is in
neither mask: (0, 0). Every case counts; the mean is taken over cases per label, then over labels.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from samora_pipeline.contracts.scores import Convention, MeanMetrics, OrganCounts, OrganMetrics, SamFamilyMetrics
from samora_pipeline.evaluation.metric import FIXED, Metric, ScoredOrgan, scored_metrics
from samora_pipeline.evaluation.metrics import Measurement

COUNTS = ("TP", "FP", "FN", "TN", "n_pred", "n_ref")


def label_key(values: Sequence[int]) -> str:
    """The key of a label or region as nnU-Net writes it: ``"1"`` or ``"(1, 2)"``."""
    return str(values[0]) if len(values) == 1 else str(tuple(values))


def physical(
    measurement: Measurement,
    spacing: Sequence[float],
    tolerance: float,
    *,
    diagonal: float,
    convention: Convention = "medpy",
    metrics: Sequence[Metric] | None = None,
) -> OrganMetrics:
    """Score one organ.

    ``spacing`` per axis, the NSD ``tolerance`` and the ``diagonal`` of the volume are in the unit of the distances. The
    convention ``deepmind`` needs a measurement with surfels. ``metrics`` are by default those that are registered.
    """
    organ, overlap = ScoredOrgan(measurement, spacing, tolerance, diagonal, convention), measurement.overlap
    scores = {metric.record.name: metric.physical(organ) for metric in _all(metrics)}
    counts = dict(
        zip(COUNTS, (overlap.tp, overlap.fp, overlap.fn, overlap.tn, overlap.n_pred, overlap.n_ref), strict=True)
    )
    return OrganMetrics(**_by_field({**counts, **scores}))


def sam_family(measurement: Measurement, *, metrics: Sequence[Metric] | None = None) -> SamFamilyMetrics:
    """Score one organ by the rules of the SAMed code; ``metrics`` without a rule for it take no part."""
    in_voxels = ScoredOrgan(measurement, (1.0,) * measurement.volumes[0].ndim)
    taking_part = (metric for metric in _all(metrics) if metric.false_positive is not None)
    scores = {metric.record.name: metric.sam_family(in_voxels) for metric in taking_part}
    return SamFamilyMetrics(**_by_field(scores))


def mean_over_cases(organs: Sequence[OrganMetrics]) -> MeanMetrics:
    """Mean of one organ's metrics over the cases in which each is defined."""
    return MeanMetrics(**_means(organs, FIXED - {"further"}))


def mean_over_labels(means: Mapping[str, MeanMetrics]) -> MeanMetrics:
    """nnU-Net's ``foreground_mean``: the mean of the labels' means."""
    return MeanMetrics(**_means(list(means.values()), FIXED - {"further"}))


def sam_family_mean(scores: Iterable[SamFamilyMetrics]) -> SamFamilyMetrics:
    """Mean over cases, or over labels: in this protocol every value counts."""
    return SamFamilyMetrics(**_means(list(scores), ("Dice", "HD95")))


def count(organs: Sequence[OrganMetrics]) -> OrganCounts:
    """Count what stands behind an organ's means."""
    present = [organ for organ in organs if organ.n_ref]
    absent = [organ for organ in organs if not organ.n_ref]
    missed = sum(organ.n_pred == 0 for organ in present)
    return OrganCounts(
        scored=len(present),
        missed=missed,
        distances=len(present) - missed,
        absent=len(absent),
        false_positive=sum(organ.n_pred > 0 for organ in absent),
        false_positive_voxels=sum(organ.n_pred for organ in absent),
    )


def _all(metrics: Sequence[Metric] | None) -> Sequence[Metric]:
    return scored_metrics() if metrics is None else metrics


def _by_field(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores as arguments: those that have a field of their own, and all others as ``further``."""
    fixed = {name: value for name, value in scores.items() if name in FIXED}
    return {**fixed, "further": {name: value for name, value in scores.items() if name not in FIXED}}


def _means(scores: Sequence[MeanMetrics] | Sequence[SamFamilyMetrics], fixed: Collection[str]) -> dict[str, Any]:
    """Means over the scores in which each metric is defined."""
    names = dict.fromkeys((*fixed, *(name for one in scores for name in one.further)))
    defined = {name: [value for one in scores if (value := one.value(name)) is not None] for name in names}
    return _by_field({name: fmean(values) if values else None for name, values in defined.items()})
