"""The choice of slices against a slow literal restatement, and what must hold of every choice."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from samora_pipeline.labelling.scoring import (
    STRATIFIED,
    Open,
    Pick,
    ScoredSlice,
    beta_of,
    choose,
    gumbel,
    score_slices,
    spread,
)

VALUES = {0: "background", 1: "organ", 2: "lesion"}


def opened(scans: int, depth: int) -> Open:
    return {f"scan_{number}": np.ones(depth, dtype=np.bool_) for number in range(scans)}


def drawn(scans: int, depth: int, seed: int) -> list[ScoredSlice]:
    generator = np.random.default_rng(seed)
    found = []
    for number in range(scans):
        for index in range(depth):
            parts = {value: float(generator.random() * (generator.random() > 0.4)) for value in VALUES}
            found.append(ScoredSlice(f"scan_{number}", index, sum(parts.values()), parts))
    return found


def slow_choice(
    slices: Sequence[ScoredSlice], count: int, noise: np.ndarray, free: Mapping[str, np.ndarray], per_scan: int | None
) -> list[tuple[str, int]]:
    """ClaSP PE as it is written: in each step, all slices are gone through again."""
    taken: list[tuple[str, int]] = []

    def allowed(one: ScoredSlice) -> bool:
        near = any(case == one.case and abs(index - one.index) < 2 for case, index in taken)
        full = per_scan is not None and sum(case == one.case for case, _ in taken) >= per_scan
        return bool(free[one.case][one.index]) and not near and not full

    def best(row: int, part: int | None) -> ScoredSlice | None:
        scored = []
        for place, one in enumerate(slices):
            entropy = one.entropy if part is None else one.parts[part]
            if entropy > 0 and allowed(one):
                scored.append((math.log(entropy) + noise[row, place], -place, one))
        return max(scored, key=lambda entry: entry[:2])[2] if scored else None

    classes = list(VALUES)
    turn = 0
    while classes and len(taken) < round(STRATIFIED * count):
        value = classes[turn % len(classes)]
        found = best(1 + list(VALUES).index(value), value)
        if found is None:
            place = turn % len(classes)
            classes.remove(value)
            turn = place
            continue
        taken.append((found.case, found.index))
        turn = turn % len(classes) + 1
    while len(taken) < count and (found := best(0, None)) is not None:
        taken.append((found.case, found.index))
    return taken


@pytest.mark.parametrize(("count", "per_scan"), [(1, None), (7, None), (12, 2), (15, 3), (400, None)])
@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_that_of_the_literal_restatement(seed: int, count: int, per_scan: int | None) -> None:
    slices, free = drawn(6, 11, seed), opened(6, 11)
    free["scan_2"][:] = False
    free["scan_3"][4:7] = False
    noise = gumbel(slices, list(VALUES), seed) / beta_of(seed)
    expected = slow_choice(slices, count, noise, {name: mask.copy() for name, mask in free.items()}, per_scan)
    picks = choose(slices, VALUES, count, noise, free, per_scan)
    assert [(one.case, one.index) for one in picks] == expected
    assert 0 < len(picks) <= count


def test_without_noise_the_labels_take_turns_with_their_largest_entropy() -> None:
    parts = [(0.1, 0.0, 0.9), (0, 0, 0), (0.2, 0.5, 0.0), (0, 0, 0), (0.4, 0.1, 0.0), (0, 0, 0), (0.3, 0.2, 0.1)]
    slices = [
        ScoredSlice("scan_0", index, sum(own), dict(enumerate(map(float, own)))) for index, own in enumerate(parts)
    ]
    picks = choose(slices, VALUES, 4, np.zeros((4, len(slices))), opened(1, 7))
    assert [(one.index, one.reason) for one in picks] == [
        (4, "unsure about background"),
        (2, "unsure about organ"),
        (0, "unsure about lesion"),
        (6, "unsure as a whole"),
    ]
    assert picks[0].score == pytest.approx(0.5)


def test_noise_has_the_mean_and_spread_of_gumbel_and_shrinks() -> None:
    slices = drawn(40, 100, 0)
    noise = gumbel(slices, list(VALUES), 1)
    assert noise.shape == (4, 4000)
    assert noise.mean() == pytest.approx(np.euler_gamma, abs=0.05)
    assert noise.var() == pytest.approx(np.pi**2 / 6, abs=0.1)
    assert [beta_of(number) for number in (0, 2, 4, 9)] == pytest.approx([1, 10, 100, 100])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_scores_of_slices_are_means_over_their_voxels(axis: int) -> None:
    generator = np.random.default_rng(axis)
    labels = generator.integers(0, 3, (4, 5, 6)).astype(np.uint8)
    percent = generator.integers(0, 101, (4, 5, 6)).astype(np.uint8)
    for index, one in enumerate(score_slices("scan", labels, percent, axis)):
        values, doubt = (np.take(array, index, axis) for array in (labels, percent))
        assert one.entropy == pytest.approx(doubt.mean() / 100)
        for value in np.unique(values):
            assert one.parts[int(value)] == pytest.approx(np.where(values == value, doubt, 0).mean() / 100)


def distances(picks: Sequence[Pick]) -> list[int]:
    by_scan: dict[str, list[int]] = {}
    for one in picks:
        by_scan.setdefault(one.case, []).append(one.index)
    return [later - former for indices in by_scan.values() for former, later in zip(*_pairs(indices), strict=True)]


def _pairs(indices: list[int]) -> tuple[list[int], list[int]]:
    ordered = sorted(indices)
    return ordered[:-1], ordered[1:]


@pytest.mark.parametrize(("scans", "count"), [(60, 352), (60, 60), (60, 7), (3, 20), (1, 5)])
def test_a_cold_start_gives_every_scan_the_same_number_at_equal_distances(scans: int, count: int) -> None:
    picks = spread(opened(scans, 88), count, seed=0)
    numbers = np.unique([one.case for one in picks], return_counts=True)[1]
    assert len(picks) == count
    assert numbers.max() - numbers.min() <= 1
    assert len(numbers) == min(scans, count)
    if count > scans:
        # Never nearer than half of an equal share of the scan.
        assert min(distances(picks)) >= 88 // (2 * numbers.max())
    depths = np.histogram([one.index for one in picks], bins=4, range=(0, 88))[0]
    if count >= 60:
        assert depths.min() > 0.8 * depths.mean()


def test_what_has_labels_is_passed_over_and_never_a_neighbour_is_chosen() -> None:
    free = opened(4, 10)
    free["scan_0"][:] = False
    free["scan_1"][2:9] = False
    before = {name: mask.copy() for name, mask in free.items()}
    picks = spread(free, 11, seed=3)
    assert all(before[one.case][one.index] for one in picks)
    assert min(distances(picks)) >= 2
    assert {one.case for one in picks} == {"scan_1", "scan_2", "scan_3"}
    # Two scans of ten slices hold five each without neighbours, the third two.
    assert len(picks) == 11
    assert len(spread({name: mask.copy() for name, mask in before.items()}, 99, seed=3)) <= 12


def test_so_many_of_each_scan() -> None:
    picks = spread(opened(9, 30), 12, seed=1, per_scan=4)
    assert sorted(np.unique([one.case for one in picks], return_counts=True)[1]) == [4, 4, 4]
    assert spread(opened(9, 30), 12, seed=1, per_scan=4) == picks
    assert {one.case for one in spread(opened(9, 30), 12, seed=2, per_scan=4)} != {one.case for one in picks}
