"""Leaks between sides of a fold, against a slow literal comparison of all pairs."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from samora_pipeline.contracts.fingerprint import CaseFingerprint, IntensityStats, Subset
from samora_pipeline.contracts.leakage import copies, copy_of, groups, protected_names, training_leaks, voxel_index
from samora_pipeline.contracts.splits import Fold, Splits

STATS = IntensityStats(0.0, 1.0, -1.0, 1.0, -1.0, 0.0, 1.0)
FLAT = replace(STATS, minimum=3.0, maximum=3.0)


def case(*digests: str, subset: Subset = "train", flat: bool = False) -> CaseFingerprint:
    stats = (FLAT if flat else STATS,) * len(digests)
    return CaseFingerprint(subset, (4, 4, 4), (1.0, 1.0, 1.0), "RAS", digests, "l", stats, stats, digests)


def test_training_leaks_are_all_pairs_with_equal_voxels_or_patients() -> None:
    draw = random.Random(0)
    cases = {f"c{i:02d}": case(f"v{draw.randrange(20)}") for i in range(30)}
    patients = {name: f"p{draw.randrange(25)}" for name in cases}
    train, protected = sorted(cases)[:20], frozenset(sorted(cases)[20:])
    found = training_leaks(train, protected, cases, patients.__getitem__)
    for leak in found:
        same_voxels = cases[leak.case].voxel_digests == cases[leak.scored].voxel_digests
        assert same_voxels if leak.reason == "voxels" else patients[leak.case] == patients[leak.scored]
    expected = {
        one
        for one in train
        for other in protected
        if cases[one].voxel_digests == cases[other].voxel_digests or patients[one] == patients[other]
    }
    assert expected
    assert {leak.case for leak in found} == expected


def test_one_shared_channel_is_enough_unless_it_shows_nothing() -> None:
    index = voxel_index({"scored": case("t1", "t2")}, ["scored"])
    assert copy_of(case("flair", "t2"), index) == "scored"
    assert copy_of(case("flair"), index) is None
    empty = voxel_index({"scored": case("zero", flat=True)}, ["scored"])
    assert copy_of(case("zero", flat=True), empty) is None


def test_test_cases_are_protected_but_never_what_the_fold_trains_on() -> None:
    cases = {"a": case("1"), "b": case("2"), "c": case("3", subset="test"), "d": case("4")}
    folds = {"official": Fold(("a", "b"), ("d",)), "0": Fold(("a",), ("b",)), "all": Fold(("a", "b"), ("a", "b"))}
    splits = Splits("D", 0, "cases", folds)
    assert protected_names(splits, folds["official"], cases) == {"c", "d"}
    assert protected_names(splits, folds["0"], cases) == {"b", "c", "d"}
    assert protected_names(splits, folds["all"], cases) == {"c", "d"}


def test_copies_are_listed_once() -> None:
    assert copies({"a": case("1", "2"), "b": case("3"), "c": case("1", "2"), "d": case("1")}) == [
        ("a", "c", "d"),
        ("a", "c"),
    ]
    assert copies({"a": case("1"), "b": case("2")}) == []


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_connected_cases(seed: int) -> None:
    draw = random.Random(seed)
    names = [f"c{i:02d}" for i in range(16)]
    cases = {name: case(f"v{draw.randrange(14)}") for name in names}
    patient = {name: f"p{draw.randrange(14)}" for name in names}
    together = {name: {name} for name in names}
    for _ in names:
        for one in names:
            for other in names:
                if cases[one].voxel_digests == cases[other].voxel_digests or patient[one] == patient[other]:
                    together[one] |= together[other]
    found = groups(cases, names, patient.__getitem__)
    for one in names:
        assert {other for other in names if found[other] == found[one]} == together[one]
