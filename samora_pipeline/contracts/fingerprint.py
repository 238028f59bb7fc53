"""dataset_fingerprint.json: what was measured from the raw data, case by case. Nothing is decided here."""

from dataclasses import dataclass, field
from typing import Literal

FINGERPRINT_FILE = "dataset_fingerprint.json"

Subset = Literal["train", "test", "unlabelled"]


@dataclass(frozen=True)
class IntensityStats:
    """Statistics of one channel in source units (HU for CT)."""

    mean: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    median: float
    percentile_99_5: float


@dataclass(frozen=True)
class CaseFingerprint:
    """One case. Shape, spacing (mm) and axis codes (e.g. ``LAS``) are those of the file, in file order.

    ``spacing`` is None where the file does not state it.
    ``volume`` and ``foreground`` hold one entry per channel: over all voxels, and over voxels with a foreground
    label (None without labels or without foreground). ``label_voxels`` counts voxels per foreground name.
    ``image_digests`` are those of the files' bytes, ``voxel_digests`` those of what the files show, per channel:
    equal for the same scan under another name, in another format or orientation (``imaging.volume``).
    """

    subset: Subset
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float] | None
    axes: str
    image_digests: tuple[str, ...]
    label_digest: str | None
    volume: tuple[IntensityStats, ...]
    foreground: tuple[IntensityStats | None, ...]
    voxel_digests: tuple[str, ...]
    label_voxels: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Fingerprint:
    """All cases that passed the integrity check, and the skipped ones with the error code of each."""

    schema_version: int = 3
    dataset: str = ""
    cases: dict[str, CaseFingerprint] = field(default_factory=dict)
    foreground: tuple[IntensityStats | None, ...] = ()
    skipped: dict[str, str] = field(default_factory=dict)
