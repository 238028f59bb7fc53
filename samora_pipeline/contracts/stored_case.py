"""CASE.json beside CASE.b2nd: what a preprocessed case is, how to check it and how to go back to the raw grid."""

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from samora_pipeline.contracts.fingerprint import IntensityStats, Subset
from samora_pipeline.contracts.json_io import is_edited, read_json
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.errors import DataError

SLICES_FOLDER = "slices"

Affine = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class SliceGeometry:
    """The way between the raw grid and the stack of slices; only axes are permuted and flipped, nothing is resampled.

    ``permutation[i]`` is the raw axis that became axis i of (slice, row, column); ``flips[i]`` tells whether it was
    reversed. ``raw_affine`` (4 x 4, voxel to RAS mm) and ``raw_shape`` are those of the file.
    """

    raw_shape: tuple[int, int, int]
    raw_affine: Affine
    permutation: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]
    """mm between slices, rows and columns; lengths without a unit where the spacing is not known"""


@dataclass(frozen=True)
class StoredCase:
    """One case of the store. ``shape`` is (slices, rows, columns) in source pixels.

    ``intensities``: per channel, the statistics of the whole volume in source units.
    ``image_crcs[slice][channel]`` and ``label_crcs[slice]`` are CRC-32 of the slice's bytes.
    ``label_pixels`` counts, per foreground name, the pixels in each slice (empty without labels). ``blank_slices`` are
    those of a labelled case in which nothing but ``ignore`` stands. ``source_digest``
    covers the raw files, the slice axis and the labels' declaration: another digest means the case is stale.
    ``digest`` covers this record itself (empty: written by an earlier version).
    """

    case: str
    subset: Subset
    shape: tuple[int, int, int]
    dtype: str
    geometry: SliceGeometry
    intensities: tuple[IntensityStats, ...]
    image_crcs: tuple[tuple[int, ...], ...]
    label_crcs: tuple[int, ...] | None
    source_digest: str
    label_pixels: dict[str, tuple[int, ...]] = field(default_factory=dict)
    blank_slices: tuple[int, ...] = ()
    digest: str = ""
    schema_version: int = 2


def read_stored_case(path: Path) -> StoredCase:
    """Read a CASE.json.

    Raises:
        DataError: ``E-STORE-02`` it was changed after it was written, ``E-JSON-..`` it cannot be read.
    """
    record = read_json(StoredCase, path)
    if is_edited(record):
        found = f"{path} was changed after it was written"
        raise DataError("E-STORE-02", record=record, found=found, fix=repair_command(path.parent))
    return record


def repair_command(folder: Path) -> str:
    """The command that writes the cases of a slices ``folder`` again, by the plan that is beside it."""
    words = ["samora_plan_and_preprocess", "-d", folder.parent.name]
    try:
        plans = read_json(Plans, folder.parent / PLANS_FILE)
    except DataError:
        return f"{shlex.join(words)}  writes it again"
    words += ["--planner", plans.planner] * (plans.planner != Plans.planner)
    for key, text in plans.overrides.items():
        words += ["--set", f"{key}={text}"]
    return f"{shlex.join(words)}  writes it again"
