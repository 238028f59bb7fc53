"""The manifest of an unlabelled pool: exactly which slices stage 1 learned from, so that they can be found again.

``results/DATASET/pretraining/pools/KEY.json``, beside the results of stage 1.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_json

POOLS_FOLDER = "pools"

PoolIntensity = Literal["plan", "fed_menu"]

# Section 4.1: "100,000 unlabelled CT images" of these datasets.
PAPER_SLICES = 100_000
PAPER_NAMES = frozenset(("AMOS22", "LiTS", "KiTS19", "Lung", "Pancreas", "HepaticVessel", "Spleen", "Colon"))


@dataclass(frozen=True)
class PoolCase:
    """One case: ``stored`` slices, ``shown`` of them that were worth choosing from, and the chosen ``slices``.

    ``slices`` are indices along the stored slice axis. ``source_digest`` is that of the stored case,
    ``voxel_digests`` (per channel) those of the scan itself, and ``content_digest`` covers the chosen slices' bytes.
    """

    source_digest: str
    voxel_digests: tuple[str, ...]
    content_digest: str
    stored: int
    shown: int
    slices: tuple[int, ...]


@dataclass(frozen=True)
class PoolDataset:
    """One dataset: what shapes its slices before the network sees them, and its cases."""

    preprocessing: dict[str, Any]
    cases: dict[str, PoolCase]


@dataclass(frozen=True)
class PoolManifest:
    """The slices of a pool and what determined them.

    ``key`` covers all that the choice depends on. ``wanted``: slices asked for (None: all that show something).
    ``quota``: the most slices that a case gives, but for the few that complete the number. ``rule`` are the numbers
    of the criterion by which a slice shows something. ``excluded`` are cases kept out because of what is scored.
    ``digest`` covers the scans and the chosen slices alone: it is the same wherever the same slices were chosen from
    the same scans.
    """

    key: str
    seed: int
    wanted: int | None
    quota: int | None
    intensity: PoolIntensity
    rule: dict[str, float]
    excluded: tuple[str, ...]
    digest: str
    datasets: dict[str, PoolDataset]
    schema_version: int = 1

    @property
    def slices(self) -> int:
        """The number of chosen slices."""
        return sum(len(case.slices) for dataset in self.datasets.values() for case in dataset.cases.values())


def digest_choice(datasets: dict[str, PoolDataset]) -> str:
    """The digest of scans and chosen slices: dataset, case, voxels, indices and contents."""
    return digest_json(
        [
            [name, case, list(entry.voxel_digests), list(entry.slices), entry.content_digest]
            for name in sorted(datasets)
            for case, entry in sorted(datasets[name].cases.items())
        ]
    )


def read_pool(path: Path) -> PoolManifest:
    """Read a manifest and check its digest.

    Raises:
        DataError: ``E-JSON-..`` missing or broken, ``E-POOL-04`` its list is not the one it was written with.
    """
    manifest = read_json(PoolManifest, path)
    if digest_choice(manifest.datasets) != manifest.digest:
        raise DataError("E-POOL-04", digest=manifest.digest[:12], path=path, found=str(path))
    return manifest
