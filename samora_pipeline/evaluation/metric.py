"""The metrics, and the two protocols under which a measurement becomes scores and means.

A metric is one class, by name in ``METRICS``; ``package.module:Class`` reaches one outside of this package. It scores
an organ that both masks hold. What a mask without the organ counts is a rule of the protocol:

``physical``: distances in mm. An organ absent from the reference is left out of every mean and counted, predicted or
not; a missed one has what ``missed`` returns (Dice, IoU and NSD 0, no distances, and as ``HD95_penalised`` the diagonal
of the volume), and is counted.

``sam_family``: the rules of the TransUNet, SAMed and H-SAM code, and so of the tables of the SAMora paper. Distances
are in voxels. A metric takes part that names ``false_positive``, its score where the organ is predicted though absent;
where it is missed or in neither mask, its score is 0. (Dice, HD95) is so (1, 0) for an organ that only the prediction
has and (0, 0) for a missed one or one that neither has. Every case counts.

Under both protocols the mean is taken over the cases in which the metric is defined, then over the labels.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from statistics import fmean
from typing import Any, ClassVar

from samora_pipeline.contracts import scores as schema
from samora_pipeline.errors import UsageError
from samora_pipeline.evaluation.metrics import Masks, Measurement, Overlap
from samora_pipeline.evaluation.surfaces import SurfaceDistances
from samora_pipeline.registry import Registry


@dataclass(frozen=True)
class ScoredOrgan:
    """One organ in one case. ``spacing`` per axis, ``tolerance`` and ``diagonal`` are in the unit of the distances."""

    measurement: Measurement
    spacing: Sequence[float]
    tolerance: float = schema.NSD_TOLERANCE
    diagonal: float = 0.0
    convention: schema.Convention = "medpy"

    @property
    def overlap(self) -> Overlap:
        """Voxel counts."""
        return self.measurement.overlap

    @cached_property
    def distances(self) -> SurfaceDistances | None:
        """Distances between the two surfaces, by the convention; None where a mask is empty."""
        deepmind = self.convention == "deepmind"
        surfaces = self.measurement.surfels if deepmind else self.measurement.surfaces
        return surfaces.distances(self.spacing) if surfaces else None

    @cached_property
    def hd95(self) -> float | None:
        """95th percentile of the distances, by the convention."""
        return self.distances.hd95(directed=self.convention == "monai") if self.distances else None

    @property
    def masks(self) -> Masks:
        """Reference and prediction [X,Y,Z] of bool, cropped to the box that holds every organ of both volumes."""
        return self.measurement.masks


class Metric(ABC):
    """One number for one organ in one case. ``record`` says how it is called and read."""

    record: ClassVar[schema.MetricRecord]
    false_positive: ClassVar[float | None] = None

    @abstractmethod
    def score(self, organ: ScoredOrgan) -> float | None:
        """Score an organ that both masks hold."""

    def missed(self, organ: ScoredOrgan) -> float | None:
        """Score an organ that the prediction lacks, protocol ``physical``: 0 where more is better, else undefined."""
        return 0.0 if self.record.higher_is_better else None

    def physical(self, organ: ScoredOrgan) -> float | None:
        """Apply the rules of protocol ``physical``."""
        if not organ.overlap.n_ref:
            return None
        return self.score(organ) if organ.overlap.n_pred else self.missed(organ)

    def sam_family(self, organ: ScoredOrgan) -> float | None:
        """Apply the rules of protocol ``sam_family``."""
        if organ.overlap.n_ref and organ.overlap.n_pred:
            return self.score(organ)
        return self.false_positive if organ.overlap.n_pred else 0.0


METRICS: Registry[type[Metric]] = Registry("metric")


@METRICS.register("Dice")
class Dice(Metric):
    """Twice the common voxels over all voxels of both masks."""

    record = schema.MetricRecord("Dice")
    false_positive = 1.0

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return 0 to 1."""
        return organ.overlap.dice


@METRICS.register("IoU")
class IoU(Metric):
    """Common voxels over the voxels of the union."""

    record = schema.MetricRecord("IoU", tabled=False, compared=False)

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return 0 to 1."""
        return organ.overlap.iou


@METRICS.register("HD95")
class HD95(Metric):
    """95th percentile of the surface distances."""

    record = schema.MetricRecord("HD95", higher_is_better=False, distance=True, digits=2)
    false_positive: ClassVar[float | None] = 0.0

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return a distance."""
        return organ.hd95


@METRICS.register("HD")
class HD(Metric):
    """Largest surface distance."""

    record = schema.MetricRecord("HD", higher_is_better=False, distance=True, digits=2, compared=False)

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return a distance."""
        return organ.distances.hd() if organ.distances else None


@METRICS.register("ASSD")
class ASSD(Metric):
    """Average symmetric surface distance."""

    record = schema.MetricRecord("ASSD", higher_is_better=False, distance=True, digits=2)

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return a distance."""
        return organ.distances.assd() if organ.distances else None


@METRICS.register("NSD")
class NSD(Metric):
    """Normalized surface distance (surface Dice) at the tolerance."""

    record = schema.MetricRecord("NSD")

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return 0 to 1."""
        return organ.distances.nsd(organ.tolerance) if organ.distances else None


@METRICS.register("HD95_penalised")
class PenalisedHD95(HD95):
    """HD95, and the diagonal of the volume where the organ is missed."""

    record = schema.MetricRecord("HD95_penalised", higher_is_better=False, distance=True, digits=2)
    false_positive = None

    def missed(self, organ: ScoredOrgan) -> float:
        """Return the longest distance that the volume holds."""
        return organ.diagonal


FIXED = frozenset(field.name for field in fields(schema.MeanMetrics))
"""names that ``OrganMetrics`` has as attributes; scores by other names are ``further`` ones"""


def scored_metrics(added: Sequence[str] = ()) -> list[Metric]:
    """Return the registered metrics, then those that ``added`` names (as registered, or ``package.module:Class``).

    Raises:
        UsageError: ``E-NAME-01`` for a name that leads to no metric, or to one called like another.
    """
    chosen: dict[str, Metric] = {}
    for name in dict.fromkeys((*METRICS.names(), *added)):
        own = METRICS.get(name)
        sound = isinstance(own, type) and issubclass(own, Metric) and hasattr(own, "record")
        if not sound or own.record.name in chosen or (":" in name and own.record.name in FIXED):
            raise UsageError(
                "E-NAME-01",
                what=f'"{name}" is no further metric',
                found=f"called {own.record.name}, as another metric is" if sound else f"{own!r}",
                expected="a subclass of samora_pipeline.evaluation.metric.Metric with a name of its own",
                fix="",
            )
        chosen[own.record.name] = own()
    return list(chosen.values())


def label_key(values: Sequence[int]) -> str:
    """The key of a label or region as nnU-Net writes it: ``"1"`` or ``"(1, 2)"``."""
    return str(values[0]) if len(values) == 1 else str(tuple(values))


def physical(
    measurement: Measurement,
    spacing: Sequence[float],
    tolerance: float,
    *,
    diagonal: float,
    convention: schema.Convention = "medpy",
    metrics: Sequence[Metric] = (),
) -> schema.OrganMetrics:
    """Score one organ.

    ``spacing`` per axis, the NSD ``tolerance`` and the ``diagonal`` of the volume are in the unit of the distances. The
    convention ``deepmind`` needs a measurement with surfels. ``metrics`` are by default those that are registered.
    """
    organ, overlap = ScoredOrgan(measurement, spacing, tolerance, diagonal, convention), measurement.overlap
    scores: dict[str, Any] = {"TP": overlap.tp, "FP": overlap.fp, "FN": overlap.fn, "TN": overlap.tn}
    scores |= {"n_pred": overlap.n_pred, "n_ref": overlap.n_ref}
    scores |= {metric.record.name: metric.physical(organ) for metric in metrics or scored_metrics()}
    return schema.OrganMetrics(**_by_field(scores))


def sam_family(measurement: Measurement, *, metrics: Sequence[Metric] = ()) -> schema.SamFamilyMetrics:
    """Score one organ by the rules of the SAMed code; ``metrics`` without a rule for it take no part."""
    in_voxels = ScoredOrgan(measurement, (1.0,) * measurement.volumes[0].ndim)
    taking_part = (metric for metric in metrics or scored_metrics() if metric.false_positive is not None)
    scores = {metric.record.name: metric.sam_family(in_voxels) for metric in taking_part}
    return schema.SamFamilyMetrics(**_by_field(scores))


def physical_mean(scores: Iterable[schema.MeanMetrics]) -> schema.MeanMetrics:
    """Mean over the cases in which each metric is defined, or (``foreground_mean``) over the labels' means."""
    return schema.MeanMetrics(**_means(list(scores), FIXED - {"further"}))


def sam_family_mean(scores: Iterable[schema.SamFamilyMetrics]) -> schema.SamFamilyMetrics:
    """Mean over cases, or over labels: in this protocol every value counts."""
    return schema.SamFamilyMetrics(**_means(list(scores), ("Dice", "HD95")))


def count(organs: Sequence[schema.OrganMetrics]) -> schema.OrganCounts:
    """Count what stands behind an organ's means."""
    present = [organ for organ in organs if organ.n_ref]
    absent = [organ for organ in organs if not organ.n_ref]
    missed = sum(organ.n_pred == 0 for organ in present)
    return schema.OrganCounts(
        scored=len(present),
        missed=missed,
        distances=len(present) - missed,
        absent=len(absent),
        false_positive=sum(organ.n_pred > 0 for organ in absent),
        false_positive_voxels=sum(organ.n_pred for organ in absent),
    )


def _by_field(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores as arguments: those that have a field of their own, and all others as ``further``."""
    fixed = {name: value for name, value in scores.items() if name in FIXED}
    return {**fixed, "further": {name: value for name, value in scores.items() if name not in FIXED}}


def _means(scores: Sequence[schema.MeanMetrics | schema.SamFamilyMetrics], fixed: Collection[str]) -> dict[str, Any]:
    """Means over the scores in which each metric is defined."""
    names = dict.fromkeys((*fixed, *(name for one in scores for name in one.further)))
    defined = {name: [value for one in scores if (value := one.value(name)) is not None] for name in names}
    return _by_field({name: fmean(values) if values else None for name, values in defined.items()})
