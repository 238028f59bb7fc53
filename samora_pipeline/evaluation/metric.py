"""The metrics: one class each, by name in ``METRICS``; ``package.module:Class`` reaches one outside of this package.

A metric scores an organ that both masks hold. What a mask without the organ counts is a rule of the protocol:

``physical``: an organ absent from the reference has no score; a missed one has what ``missed`` returns.
``sam_family``: a metric takes part that names ``false_positive``, its score where the organ is predicted though absent;
where it is missed or in neither mask, its score is 0.

Under both protocols the mean is taken over the cases in which the metric is defined, then over the labels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import ClassVar

from samora_pipeline.contracts.scores import NSD_TOLERANCE, Convention, MeanMetrics, MetricRecord
from samora_pipeline.errors import UsageError
from samora_pipeline.evaluation.metrics import Masks, Measurement, Overlap
from samora_pipeline.evaluation.surfaces import SurfaceDistances
from samora_pipeline.registry import Registry


@dataclass(frozen=True)
class ScoredOrgan:
    """One organ in one case. ``spacing`` per axis, ``tolerance`` and ``diagonal`` are in the unit of the distances."""

    measurement: Measurement
    spacing: Sequence[float]
    tolerance: float = NSD_TOLERANCE
    diagonal: float = 0.0
    convention: Convention = "medpy"

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

    record: ClassVar[MetricRecord]
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

    record = MetricRecord("Dice")
    false_positive = 1.0

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return 0 to 1."""
        return organ.overlap.dice


@METRICS.register("IoU")
class IoU(Metric):
    """Common voxels over the voxels of the union."""

    record = MetricRecord("IoU", tabled=False, compared=False)

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return 0 to 1."""
        return organ.overlap.iou


@METRICS.register("HD95")
class HD95(Metric):
    """95th percentile of the surface distances."""

    record = MetricRecord("HD95", higher_is_better=False, distance=True, digits=2)
    false_positive = 0.0

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return a distance."""
        return organ.hd95


@METRICS.register("HD")
class HD(Metric):
    """Largest surface distance."""

    record = MetricRecord("HD", higher_is_better=False, distance=True, digits=2, compared=False)

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return a distance."""
        return organ.distances.hd() if organ.distances else None


@METRICS.register("ASSD")
class ASSD(Metric):
    """Average symmetric surface distance."""

    record = MetricRecord("ASSD", higher_is_better=False, distance=True, digits=2)

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return a distance."""
        return organ.distances.assd() if organ.distances else None


@METRICS.register("NSD")
class NSD(Metric):
    """Normalized surface distance (surface Dice) at the tolerance."""

    record = MetricRecord("NSD")

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return 0 to 1."""
        return organ.distances.nsd(organ.tolerance) if organ.distances else None


@METRICS.register("HD95_penalised")
class PenalisedHD95(Metric):
    """HD95, and the diagonal of the volume where the organ is missed."""

    record = MetricRecord("HD95_penalised", higher_is_better=False, distance=True, digits=2)

    def score(self, organ: ScoredOrgan) -> float | None:
        """Return a distance."""
        return organ.hd95

    def missed(self, organ: ScoredOrgan) -> float:
        """Return the longest distance that the volume holds."""
        return organ.diagonal


FIXED = frozenset(field.name for field in fields(MeanMetrics))
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
