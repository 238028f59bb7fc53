"""summary.json: the scores of a folder of predictions under both protocols.

nnU-Net's keys stay where its tools look for them (``foreground_mean``, ``mean``, ``metric_per_case`` with
``reference_file``, ``prediction_file`` and ``metrics``); surface metrics join them. Labels are keyed as nnU-Net keys
them: ``"1"`` for a label, ``"(1, 2)"`` for a region. A value that is not defined is null, never NaN.
"""

from dataclasses import dataclass, field
from typing import Literal

DistanceUnit = Literal["mm", "voxel"]
Convention = Literal["medpy", "monai", "deepmind"]
"""Whose rules make a surface and its percentile: see ``samora_pipeline.evaluation.surfaces``."""

EXPORTED_SCORES_FILE = "scores.json"

NSD_TOLERANCE = 2.0
"""Default tolerance of the normalized surface distance, in mm."""


@dataclass(frozen=True)
class MetricRecord:
    """How a metric is read: in ``digits`` digits, and in the summary's ``distance_unit`` where it is a ``distance``.

    ``tabled`` metrics are columns of the tables, ``compared`` ones are tested between runs.
    """

    name: str
    higher_is_better: bool = True
    distance: bool = False
    digits: int = 3
    tabled: bool = True
    compared: bool = True


class _ByName:
    further: dict[str, float | None]

    def value(self, name: str) -> float | None:
        """Return the metric called ``name``; None where it is not defined or was not scored."""
        found: float | None = getattr(self, name, None)
        return self.further.get(name, found)

    def has(self, name: str) -> bool:
        """Return whether the metric called ``name`` was scored."""
        return name in self.further or hasattr(self, name)


@dataclass(frozen=True)
class MeanMetrics(_ByName):
    """Means of ``OrganMetrics``: scores over the cases where they are defined, counts over all cases."""

    Dice: float | None
    IoU: float | None
    TP: float | None
    FP: float | None
    FN: float | None
    TN: float | None
    n_pred: float | None
    n_ref: float | None
    HD95: float | None
    HD: float | None
    ASSD: float | None
    NSD: float | None
    HD95_penalised: float | None = None
    further: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class OrganMetrics(MeanMetrics):
    """One organ in one case, protocol ``physical``; distances in the summary's ``distance_unit``.

    An organ absent from the reference has no scores (counts stay, so false positives can be seen). A missed organ has
    Dice, IoU and NSD 0 and no distances; in ``HD95_penalised`` alone it has the diagonal of the volume, so that missing
    an organ cannot improve a mean distance. ``further`` holds the metrics that were added to these.
    """

    TP: int
    FP: int
    FN: int
    TN: int
    n_pred: int
    n_ref: int


@dataclass(frozen=True)
class SamFamilyMetrics(_ByName):
    """Protocol ``sam_family``: Dice and HD95 in voxels, with the empty-mask rules of the SAMed and H-SAM code.

    ``further`` holds the metrics added to these that have a rule for this protocol.
    """

    Dice: float
    HD95: float
    further: dict[str, float | None] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class OrganCounts:
    """What stands behind an organ's means.

    ``scored`` cases have the organ in the reference, ``missed`` of them not in the prediction; ``distances`` of them
    have both. ``absent`` cases do not have it in the reference; in ``false_positive`` of those it was predicted, with
    ``false_positive_voxels`` in all.
    """

    scored: int
    missed: int
    distances: int
    absent: int
    false_positive: int
    false_positive_voxels: int


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval of a mean."""

    low: float
    high: float


@dataclass(frozen=True)
class Intervals:
    """Intervals per metric name, for the foreground mean and per label; null where fewer than two patients count."""

    foreground_mean: dict[str, Interval | None]
    mean: dict[str, dict[str, Interval | None]]


@dataclass(frozen=True)
class Bootstrap:
    """How the intervals were made: percentile bootstrap over ``n`` patients, drawn whole with all their cases."""

    n: int
    unit: Literal["patient"] = "patient"
    level: float = 0.95
    resamples: int = 2000
    seed: int = 0


@dataclass(frozen=True)
class CaseMetrics:
    """One case, protocol ``physical``: file names without folders, metrics per label key."""

    case: str
    reference_file: str
    prediction_file: str
    metrics: dict[str, OrganMetrics]
    patient: str
    fold: str | None = None


@dataclass(frozen=True)
class SamFamilyCase:
    """One case, protocol ``sam_family``."""

    case: str
    metrics: dict[str, SamFamilyMetrics]


@dataclass(frozen=True)
class SamFamilySummary:
    """Protocol ``sam_family``: mean over cases per label, then over labels; always in voxels of the stored grid."""

    foreground_mean: SamFamilyMetrics
    mean: dict[str, SamFamilyMetrics]
    intervals: Intervals
    metric_per_case: tuple[SamFamilyCase, ...]
    distance_unit: Literal["voxel"] = "voxel"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The content of summary.json.

    ``n`` counts cases. ``labels`` gives the name of each label key. ``convention`` is that of the distances of protocol
    ``physical``. ``nsd_tolerance`` is in ``distance_unit``, which is ``voxel`` only where a dataset's spacing is not
    known. ``warnings`` (such as PHANTOM) belong on every picture and table made from these scores.
    ``unscored_predictions`` are files that had no reference. ``metrics`` describes those in ``further``, so that
    a reader needs none of the code that computed them.
    """

    schema_version: int = 2
    warnings: tuple[str, ...] = ()
    n: int
    labels: dict[str, str]
    distance_unit: DistanceUnit = "mm"
    convention: Convention = "medpy"
    nsd_tolerance: float
    foreground_mean: MeanMetrics
    mean: dict[str, MeanMetrics]
    counts: dict[str, OrganCounts]
    bootstrap: Bootstrap
    intervals: Intervals
    sam_family: SamFamilySummary
    metric_per_case: tuple[CaseMetrics, ...]
    unscored_predictions: tuple[str, ...] = ()
    folds: tuple[str, ...] = ()
    metrics: tuple[MetricRecord, ...] = ()


@dataclass(frozen=True)
class ExportedScores:
    """scores.json in a fold of an exported model: its mean Dice (protocol ``physical``), and over how many.

    Nothing of a single case is in it, so it cannot be compared or reported, only listed.
    """

    dice: float | None
    cases: int
    patients: int
    schema_version: int = 1
