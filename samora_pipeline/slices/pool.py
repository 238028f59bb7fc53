"""Which slices of unlabelled scans are worth learning from, and a fair, seeded choice among them."""

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.stored_case import StoredCase
from samora_pipeline.files import digest_json
from samora_pipeline.imaging.intensity import normalize
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.slices.store import StoredSlices

TISSUE = 0.1
TISSUE_SHARE = 0.05
CONTRAST = 0.02
_STRIDE = 4


@dataclass(frozen=True)
class PoolScan:
    """One stored case to be looked through. ``step`` is the distance in mm that finer slices are thinned to."""

    folder: Path
    case: str
    plans: Plans
    step: float | None = None


def choice_rule() -> dict[str, float]:
    """The numbers of the criterion, for the key and the manifest of a pool."""
    return {"tissue": TISSUE, "tissue_share": TISSUE_SHARE, "contrast": CONTRAST, "stride": _STRIDE}


def thinned(count: int, spacing: float, step: float | None) -> tuple[int, ...]:
    """Of ``count`` slices of ``spacing`` mm the indices of those nearest to positions in steps of ``step`` mm.

    Slices that are as far apart as that, or farther, are all kept: scans are made coarser, never finer.
    """
    if step is None or spacing >= step:
        return tuple(range(count))
    positions = range(int((count - 1) * spacing / step + 1e-9) + 1)
    return tuple(dict.fromkeys(round(position * step / spacing) for position in positions))


def showing_slices(scan: PoolScan) -> tuple[int, ...]:
    """The slices of a scan that show enough to learn from, in order.

    A slice is left out when, in each channel as the network sees it (in [0,1], every fourth pixel of every fourth
    row), less than 5 % of the pixels lie above 0.1 (air) or the standard deviation is below 0.02 (nearly constant).

    Raises:
        DataError: ``E-STORE-01`` the case is not preprocessed, ``E-STORE-02`` damaged.
    """
    stored = StoredSlices.open(scan.folder, scan.case)
    indices = thinned(len(stored), stored.record.geometry.spacing[0], scan.step)
    return tuple(index for index in indices if _shows_something(stored, index, scan.plans))


def content_digest(record: StoredCase, indices: Sequence[int]) -> str:
    """A digest of the bytes of the given slices, made from their stored checksums."""
    return digest_json([record.dtype, *record.shape[1:], [list(record.image_crcs[index]) for index in indices]])


def allot(available: Mapping[str, int], wanted: int | None, seed: int) -> tuple[int | None, dict[str, int]]:
    """Share ``wanted`` slices out over scans: the quota, and each scan's number of slices.

    Every scan gives the same number, the quota, or all it has when that is less; the few that are then still missing
    come one each from scans drawn by ``seed``. None, or more than there are: everything, without a quota.
    """
    if wanted is None or wanted >= sum(available.values()):
        return None, dict(available)
    low, high = 0, max(available.values())
    while high - low > 1:
        middle = (low + high) // 2
        given = sum(min(count, middle) for count in available.values())
        low, high = (middle, high) if given <= wanted else (low, middle)
    shares = {name: min(count, low) for name, count in available.items()}
    more = sorted(name for name, count in available.items() if count > low)
    for name in random.Random(derived_seed(seed, "quota")).sample(more, wanted - sum(shares.values())):
        shares[name] += 1
    return low, shares


def spread(indices: Sequence[int], count: int, *key: int | str) -> tuple[int, ...]:
    """Choose ``count`` of ``indices``, one at random from each of ``count`` stretches of equal length, in order.

    Neighbouring slices are near copies of each other, so the choice covers the whole scan. The same ``key`` gives the
    same choice.
    """
    draw = random.Random(derived_seed(*key))
    ends = [len(indices) * step // count for step in range(count + 1)] if count else []
    return tuple(indices[draw.randrange(start, stop)] for start, stop in itertools.pairwise(ends))


def _shows_something(stored: StoredSlices, index: int, plans: Plans) -> bool:
    image = normalize(stored.image(index)[:, ::_STRIDE, ::_STRIDE], plans.intensity.value, stored.record.intensities)
    tissue = (image > TISSUE).mean(axis=(1, 2)) >= TISSUE_SHARE
    return bool((tissue & (image.std(axis=(1, 2)) >= CONTRAST)).any())
