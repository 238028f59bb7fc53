"""monitoring.json of a self-supervised stage: measures of whether it learned, their thresholds, and advice."""

from dataclasses import dataclass, field
from typing import Literal

MONITORING_FILE = "monitoring.json"
MONITORING_PICTURE = "monitoring.png"
EXPERTS_FILE = "experts.json"
EXPERTS_PICTURE = "experts.png"

Verdict = Literal["pass", "warn"]


@dataclass(frozen=True)
class Measure:
    """One number. ``wanted`` is its threshold in words, empty where it is only shown; ``passed`` is None then.

    ``advice`` is what to do on a warning.
    """

    name: str
    value: float
    wanted: str
    passed: bool | None
    meaning: str
    advice: str = ""


@dataclass(frozen=True)
class MonitoringReport:
    """What a stage learned, from a fixed panel of slices of the pool after its last epoch.

    ``taught_by`` names the teacher and what it started from, empty where a stage has none. ``blocks`` gives |BA| / |W|
    of the LoRA per block for q and v, ``probes`` how axial position (mean error, share of the scan) and dataset (share
    right) are read off the nearest neighbours, each with its chance level. ``monitor_seconds`` are part of no epoch.
    """

    stage: str
    verdict: Verdict
    taught_by: str
    epochs: int
    pool_slices: int
    panel_slices: int
    trained_parameters: int
    seconds: float
    monitor_seconds: float
    slices_per_second: float
    data_wait: float
    memory_gib: float | None
    skipped_steps: int
    measures: tuple[Measure, ...]
    blocks: dict[str, tuple[float, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    schema_version: int = 2


@dataclass(frozen=True)
class ExpertsReport:
    """How alike the experts of a run are on one panel.

    ``similarity`` is linear CKA of pooled features of the last block by pairs of ``names``, the plain base first;
    ``position_error`` is the mean error of the axial position that is read off nearest neighbours, per name.
    """

    verdict: Verdict
    panel_slices: int
    names: tuple[str, ...]
    similarity: tuple[tuple[float, ...], ...]
    position_error: tuple[float, ...]
    position_chance: float
    measures: tuple[Measure, ...]
    warnings: tuple[str, ...] = ()
    schema_version: int = 2
