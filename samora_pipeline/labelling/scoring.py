"""Which slices next: spread over all scans, or by class-balanced entropy with decreasing noise; never two neighbours.

With a model: ClaSP PE (arXiv 2601.13677). Two thirds of a round go round the labels; each takes the slice with the
largest log entropy + Gumbel noise / beta, where only voxels predicted as that label count. The rest goes by the entropy
of whole slices. beta grows from 1 to 100 over the first rounds, so that early rounds explore and late ones exploit. The
paper queries patches of nnU-Net; here the unit is a slice, because that is what an annotator draws.

Without a model: every scan gets as many slices as any other, at depths that differ from scan to scan.
"""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from samora_pipeline.reproducibility import derived_seed

STRATIFIED = 0.66
"""of a round's slices, those that are chosen label by label (ClaSP PE)"""
_LAST_BETA, _ROUNDS = 100.0, 4
_GOLDEN = (5**0.5 - 1) / 2

Open = dict[str, npt.NDArray[np.bool_]]
"""by scan, which of its slices may be chosen"""


@dataclass(frozen=True)
class Pick:
    """A chosen slice; ``score`` is its entropy, None without a model."""

    case: str
    index: int
    reason: str
    score: float | None = None


@dataclass(frozen=True)
class ScoredSlice:
    """A slice that may be chosen: its mean entropy, and how much of that lies in voxels predicted as each value.

    Both are of all voxels of the slice, 1 being the largest entropy: the parts add up to the whole.
    """

    case: str
    index: int
    entropy: float
    parts: Mapping[int, float]


def score_slices(
    case: str, labels: npt.NDArray[np.uint8], percent: npt.NDArray[np.uint8], axis: int
) -> list[ScoredSlice]:
    """Score all slices of a prediction.

    Args:
        case: its name.
        labels: predicted values [X, Y, Z].
        percent: entropy of each voxel [X, Y, Z] in percent of the largest (``inference.probabilities``).
        axis: the axis that slices are counted along.
    """
    found = []
    for index, (values, doubt) in enumerate(
        zip(np.moveaxis(labels, axis, 0), np.moveaxis(percent, axis, 0), strict=True)
    ):
        sums = np.bincount(values.ravel(), doubt.ravel()) / (100 * doubt.size)
        parts = {int(value): float(sums[value]) for value in np.unique(values)}
        found.append(ScoredSlice(case, index, float(sums.sum()), parts))
    return found


def beta_of(number: int) -> float:
    """How little noise round ``number`` has, counted from 0: 1, 3.2, 10, 32, and 100 from the fifth round on."""
    return float(_LAST_BETA ** (min(number, _ROUNDS) / _ROUNDS))


def gumbel(slices: Sequence[ScoredSlice], values: Sequence[int], seed: int) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise [1 + values, slices]; row 0 is for whole slices."""
    generator = np.random.default_rng(derived_seed(seed, "suggest"))
    return generator.gumbel(size=(1 + len(values), len(slices)))


def choose(
    slices: Sequence[ScoredSlice],
    values: Mapping[int, str],
    count: int,
    noise: npt.NDArray[np.float64],
    opened: Open,
    per_scan: int | None = None,
) -> list[Pick]:
    """Choose up to ``count`` slices; ``opened`` is changed to what may be chosen afterwards.

    Args:
        slices: all that are scored.
        values: predicted values with their names, background included.
        count: how many.
        noise: what is added to the logarithms [1 + values, slices]: Gumbel noise / beta.
        opened: what may be chosen.
        per_scan: the most of one scan, None for no limit.
    """
    room = dict.fromkeys(opened, count if per_scan is None else per_scan)
    picks: list[Pick] = []
    rows = {
        value: _ranking([one.parts.get(value, 0.0) for one in slices], noise[1 + place])
        for place, value in enumerate(values)
    }
    stratified = round(STRATIFIED * count)
    turns = list(values)
    while turns and len(picks) < stratified:
        value = turns.pop(0)
        found = _next(rows[value], slices, opened, room)
        if found is not None:
            picks.append(_take(found, f"unsure about {values[value]}", opened, room))
            turns.append(value)
    whole = _ranking([one.entropy for one in slices], noise[0])
    while len(picks) < count and (found := _next(whole, slices, opened, room)) is not None:
        picks.append(_take(found, "unsure as a whole", opened, room))
    return picks


def _ranking(entropies: Sequence[float], noise: npt.NDArray[np.float64]) -> list[tuple[float, int]]:
    """The slices with any entropy as a heap, the largest score first."""
    known = [(-(np.log(one) + noise[place]), place) for place, one in enumerate(entropies) if one > 0]
    heapq.heapify(known)
    return known


def _next(
    ranking: list[tuple[float, int]], slices: Sequence[ScoredSlice], opened: Open, room: Mapping[str, int]
) -> ScoredSlice | None:
    while ranking:
        one = slices[heapq.heappop(ranking)[1]]
        if room[one.case] > 0 and opened[one.case][one.index]:
            return one
    return None


def _take(one: ScoredSlice, reason: str, opened: Open, room: dict[str, int]) -> Pick:
    close(opened[one.case], one.index)
    room[one.case] -= 1
    return Pick(one.case, one.index, reason, one.entropy)


def close(opened: npt.NDArray[np.bool_], index: int) -> None:
    """Neither a slice nor its neighbours may be chosen again."""
    opened[max(0, index - 1) : index + 2] = False


def spread(opened: Open, count: int, seed: int, per_scan: int | None = None) -> list[Pick]:
    """Choose up to ``count`` slices over all scans, those of a scan at equal distances; ``opened`` is changed.

    The depths are shifted from scan to scan by the golden ratio, which leaves no depth out however many scans there
    are. Scans with more labels come later. ``per_scan``: the slices of each scan, of as many scans as that takes.
    """
    names = sorted(opened)
    np.random.default_rng(derived_seed(seed, "spread")).shuffle(names)
    names.sort(key=lambda name: int((~opened[name]).sum()))
    picks: list[Pick] = []
    for rank, (name, share) in enumerate(_shares(names, count, per_scan).items()):
        phase = (0.5 + rank * _GOLDEN) % 1
        for place in range(share):
            if (index := _nearest(opened[name], (place + phase) / share)) is not None:
                picks.append(_spread_pick(name, index, opened))
    # What a scan without room left over goes to the others.
    limit = {name: (per_scan or count) - sum(one.case == name for one in picks) for name in names}
    while len(picks) < count and (free := [name for name in names if limit[name] > 0 and opened[name].any()]):
        for name in free[: count - len(picks)]:
            index = _nearest(opened[name], 0.5)
            if index is not None:
                picks.append(_spread_pick(name, index, opened))
            limit[name] -= 1
    return picks


def _shares(names: Sequence[str], count: int, per_scan: int | None) -> dict[str, int]:
    if per_scan is not None:
        return {
            name: min(per_scan, count - place * per_scan)
            for place, name in enumerate(names)
            if place * per_scan < count
        }
    least, more = divmod(count, max(1, len(names)))
    return {name: least + (place < more) for place, name in enumerate(names)}


def _spread_pick(name: str, index: int, opened: Open) -> Pick:
    close(opened[name], index)
    return Pick(name, index, "spread over all scans")


def _nearest(opened: npt.NDArray[np.bool_], depth: float) -> int | None:
    """The open slice that is nearest to a depth from 0 to 1."""
    free = np.flatnonzero(opened)
    if not free.size:
        return None
    return int(free[np.abs(free + 0.5 - depth * len(opened)).argmin()])
