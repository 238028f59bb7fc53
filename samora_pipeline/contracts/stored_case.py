"""CASE.json beside CASE.b2nd: what a preprocessed case is, how to check it and how to go back to the raw grid."""

from dataclasses import dataclass, field

from samora_pipeline.contracts.fingerprint import IntensityStats, Subset

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
    ``label_pixels`` counts, per foreground name, the pixels in each slice (empty without labels). ``source_digest``
    covers the raw files, the slice axis and the labels' declaration: another digest means the case is stale.
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
    schema_version: int = 2
