"""The two protocols under which a measurement becomes scores, and their means.

``physical``: distances in mm. An organ absent from the reference is left out of every mean and counted, predicted or
not; a missed organ has Dice, IoU and NSD 0, no distances, and is counted. Its ``HD95_penalised`` is the diagonal of the
volume.

``sam_family``: the rules of the TransUNet, SAMed and H-SAM code, and so of the tables of the SAMora paper. HD95 is in
voxels. Both masks filled: (Dice, HD95); only the prediction: (1, 0); otherwise, a missed organ or one that is in
neither mask: (0, 0). Every case counts; the mean is taken over cases per label, then over labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from statistics import fmean

from samora_pipeline.contracts.scores import Convention, MeanMetrics, OrganCounts, OrganMetrics, SamFamilyMetrics
from samora_pipeline.evaluation.metrics import Measurement

METRICS = tuple(field.name for field in fields(OrganMetrics))
SCORES = ("Dice", "IoU", "HD95", "HD", "ASSD", "NSD", "HD95_penalised")


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
) -> OrganMetrics:
    """Score one organ.

    ``spacing`` per axis, the NSD ``tolerance`` and the ``diagonal`` of the volume are in the unit of the distances. The
    convention ``deepmind`` needs a measurement with surfels.
    """
    overlap = measurement.overlap
    present = overlap.n_ref > 0
    surfaces = measurement.surfels if convention == "deepmind" else measurement.surfaces
    distances = surfaces.distances(spacing) if surfaces else None
    hd95 = distances.hd95(directed=convention == "monai") if distances else None
    missed = present and overlap.n_pred == 0
    return OrganMetrics(
        Dice=overlap.dice if present else None,
        IoU=overlap.iou if present else None,
        TP=overlap.tp,
        FP=overlap.fp,
        FN=overlap.fn,
        TN=overlap.tn,
        n_pred=overlap.n_pred,
        n_ref=overlap.n_ref,
        HD95=hd95,
        HD=distances.hd() if distances else None,
        ASSD=distances.assd() if distances else None,
        NSD=distances.nsd(tolerance) if distances else 0.0 if missed else None,
        HD95_penalised=diagonal if missed else hd95,
    )


def sam_family(measurement: Measurement) -> SamFamilyMetrics:
    """Score one organ by the rules of the SAMed code."""
    overlap, surfaces = measurement.overlap, measurement.surfaces
    if surfaces and overlap.dice is not None:
        in_voxels = (1.0,) * len(surfaces.shape)
        return SamFamilyMetrics(Dice=overlap.dice, HD95=surfaces.distances(in_voxels).hd95())
    return SamFamilyMetrics(Dice=1.0 if overlap.n_pred else 0.0, HD95=0.0)


def mean_over_cases(organs: Sequence[OrganMetrics]) -> MeanMetrics:
    """Mean of one organ's metrics over the cases in which each is defined."""
    return MeanMetrics(**{name: _mean(getattr(organ, name) for organ in organs) for name in METRICS})


def mean_over_labels(means: Mapping[str, MeanMetrics]) -> MeanMetrics:
    """nnU-Net's ``foreground_mean``: the mean of the labels' means."""
    return MeanMetrics(**{name: _mean(getattr(mean, name) for mean in means.values()) for name in METRICS})


def sam_family_mean(scores: Iterable[SamFamilyMetrics]) -> SamFamilyMetrics:
    """Mean over cases, or over labels: in this protocol every value counts."""
    listed = list(scores)
    return SamFamilyMetrics(Dice=fmean(score.Dice for score in listed), HD95=fmean(score.HD95 for score in listed))


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


def _mean(values: Iterable[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None
