from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from sklearn.model_selection import KFold

from planners.split_planner import SplitPlanner
from samora_pipeline.contracts.dataset import DatasetJson, PublishedBudget, PublishedSplit, RawDataset, SamoraJson
from samora_pipeline.contracts.fingerprint import CaseFingerprint, Fingerprint, Subset
from samora_pipeline.contracts.plans import SliceAxis
from samora_pipeline.contracts.splits import Fold, Selection, Splits, select
from samora_pipeline.imaging.volume import Volume, make_grid, to_slices


class Planned(NamedTuple):
    splits: Splits
    notes: tuple[str, ...]


def case(
    subset: Subset = "train", labelled: bool = True, shape: tuple[int, int, int] = (8, 9, 10), axes: str = "LPS"
) -> CaseFingerprint:
    return CaseFingerprint(subset, shape, (1.0, 1.0, 1.0), axes, ("x",), "y" if labelled else None, (), (), ())


def plan(
    cases: dict[str, CaseFingerprint],
    previous: Splits | None = None,
    before: SliceAxis | None = "axial",
    axis: SliceAxis = "axial",
    **ours: Any,
) -> Planned:
    description = DatasetJson({"0": "CT"}, {"background": 0, "organ": 1}, len(cases), ".nii.gz")
    dataset = RawDataset(Path("raw"), description, SamoraJson(**ours))
    planner = SplitPlanner(dataset, Fingerprint(dataset="Dataset007_Boxes", cases=cases), axis)
    return Planned(*planner.plan(previous, before))


def named(count: int) -> dict[str, CaseFingerprint]:
    return {f"case_{index:02d}": case() for index in range(count)}


@pytest.mark.parametrize("count", [5, 13, 40])
def test_five_folds_are_nnunets(count: int) -> None:
    names = np.array(sorted(named(count)))
    folds = plan(named(count)).splits.folds
    assert list(folds) == ["0", "1", "2", "3", "4", "all"]
    for number, (train, scored) in enumerate(KFold(5, shuffle=True, random_state=12345).split(names)):
        assert folds[str(number)] == Fold(tuple(names[train]), tuple(names[scored]))
    assert folds["all"] == Fold(tuple(names), tuple(names))


def test_a_patient_is_on_one_side_only() -> None:
    patients = {f"case_{index:02d}": f"patient_{index // 3}" for index in range(20)}
    folds = plan(named(20), patients=patients).splits.folds
    for name in "01234":
        sides = [{patients[case] for case in side} for side in (folds[name].train, folds[name].scored)]
        assert not sides[0] & sides[1]
    assert sorted(case for name in "01234" for case in folds[name].scored) == sorted(patients)


@pytest.mark.parametrize(("count", "expected"), [(4, ["0", "1", "2", "3"]), (2, ["0", "1"]), (1, []), (0, [])])
def test_few_patients_make_few_folds(count: int, expected: list[str]) -> None:
    planned = plan(named(count))
    assert list(planned.splits.folds) == [*expected, "all"]
    assert planned.splits.default_fold == (expected or ["all"])[0]
    assert "labelled patients" in planned.notes[0]


def test_unlabelled_and_test_cases_are_in_no_fold() -> None:
    cases = {**named(5), "test_0": case("test"), "free": case("unlabelled", labelled=False)}
    folds = plan(cases).splits.folds
    assert {name for fold in folds.values() for name in (*fold.train, *fold.scored)} == set(named(5))


def test_the_published_split_becomes_official() -> None:
    cases = {**named(10), "test_0": case("test"), "blind": case("test", labelled=False)}
    split = PublishedSplit(("case_00", "case_03", "gone_1"), ("case_05", "test_0", "blind", "gone_2"))
    planned = plan(cases, published_split=split)
    assert planned.splits.folds["official"] == Fold(("case_00", "case_03"), ("case_05", "test_0"))
    assert planned.splits.default_fold == "official"
    assert "1 of 3 published training cases are not here: gone_1" in planned.notes
    assert "2 of 4 published test cases are not here: blind, gone_2" in planned.notes
    for name in ("0", "1", "2", "3", "4", "all"):
        assert "case_05" not in (*planned.splits.folds[name].train, *planned.splits.folds[name].scored)


def test_half_a_published_split_is_no_fold() -> None:
    planned = plan(named(6), published_split=PublishedSplit(("case_00",), ("elsewhere",)))
    assert "official" not in planned.splits.folds
    assert any("only one side" in note for note in planned.notes)


@pytest.mark.parametrize("axes", ["LPS", "LPI", "SAL", "IRP"])
def test_published_slices_follow_their_voxels_into_the_store(axes: str) -> None:
    """The slice that the published index names holds the same voxels as the stored slice it is mapped to."""
    directions = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}
    affine = np.eye(4)
    affine[:3, :3] = 0
    for index, letter in enumerate(axes):
        affine[directions[letter], index] = 1 if letter in "RAS" else -1
    raw_axis = next(index for index, letter in enumerate(axes) if letter in "SI")
    voxels = np.random.default_rng(0).integers(0, 999, (8, 9, 10)).astype(np.int16)
    stack, _ = to_slices((Volume(voxels, make_grid(voxels.shape, affine), Path("x")),), "axial")
    budget = PublishedBudget("slices", ("case_00", "gone"), {"case_00": (1, 2, 6), "gone": (3,)})
    cases = {name: replace(fingerprint, axes=axes) for name, fingerprint in named(5).items()}
    splits = plan(cases, published_split=PublishedSplit(("case_00",), ("case_01",)), budgets={"10pct": budget}).splits
    mapped = splits.published["10pct"].slices["case_00"]
    assert len(mapped) == 3
    wanted = sorted(np.take(voxels, index, raw_axis).sum() for index in (1, 2, 6))
    assert sorted(stack[index].sum() for index in mapped) == wanted
    selection = select(splits, "10pct", "official", 0, {"case_00": 10})
    assert (selection.published, selection.slices) == (True, {"case_00": mapped})


def test_a_published_slice_beyond_the_volume_drops_its_split_alone() -> None:
    beyond, whole = PublishedBudget("slices", ("case_00",), {"case_00": (10,)}), PublishedBudget("cases", ("case_00",))
    planned = plan(named(5), budgets={"5pct_slices": beyond, "5pct": whole})
    assert planned.splits.published == {"5pct": whole}
    assert [note for note in planned.notes if 'no split "5pct_slices"' in note and "case_00" in note]


def test_a_list_published_since_takes_the_place_of_what_was_drawn_under_its_name() -> None:
    halves = PublishedSplit(("case_00", "case_01"), ("case_02",))
    before = plan(named(5), published_split=halves).splits
    counts = dict.fromkeys(before.folds["official"].train, 10)
    drawn = before.with_selection(select(before, "50pct_slices", "official", 0, counts))
    assert not drawn.selections["50pct_slices/official/0"].published
    budget = PublishedBudget("slices", ("case_00",), {"case_00": (3, 4)})
    after = plan(named(5), drawn, published_split=halves, budgets={"50pct_slices": budget}).splits
    assert select(after, "50pct_slices", "official", 0, counts).slices == {"case_00": (3, 4)}


def test_drawn_selections_and_own_folds_outlive_a_new_plan() -> None:
    first = plan(named(10)).splits
    counts = dict.fromkeys(first.folds["0"].train, 10)
    by_case, by_slice = select(first, "3cases", "0", 7, counts), select(first, "25slices", "0", 7, counts)
    mine = Fold(("case_00", "case_01"), ("case_02",))
    drawn = replace(first.with_selection(by_case).with_selection(by_slice), folds={**first.folds, "mine": mine})
    assert plan(named(10), drawn) == Planned(drawn, ())
    other_axis = plan(named(10), drawn, axis="sagittal")
    assert list(other_axis.splits.selections) == ["3cases/0/7"]
    assert "25slices/0/7 was dropped" in other_axis.notes[0]
    unknown_axis = plan(named(10), drawn, None)
    assert list(unknown_axis.splits.selections) == ["3cases/0/7"]
    fewer = {name: fingerprint for name, fingerprint in named(10).items() if name not in (by_case.cases[0], "case_02")}
    gone = plan(fewer, drawn)
    assert gone.splits.selections == {}
    assert "mine" not in gone.splits.folds


def test_new_cases_leave_counts_and_drop_shares() -> None:
    first = plan(named(10)).splits
    counts = dict.fromkeys(first.folds["0"].train, 10)
    for name in ("full", "50pct", "2cases"):
        first = first.with_selection(select(first, name, "0", 0, counts))
    later = plan(named(17), first)
    kept = later.splits.selections
    two = first.selections["2cases/0/0"]
    assert set(kept) == ({"2cases/0/0"} if set(two.cases) <= set(later.splits.folds["0"].train) else set())
    assert len(later.notes) == 3 - len(kept)


def test_a_selection_never_moves_to_the_scored_side() -> None:
    first, later = plan(named(10)).splits, plan(named(17)).splits
    moved = [(fold, case) for fold in "01234" for case in first.folds[fold].train if case in later.folds[fold].scored]
    assert moved
    for fold, case in moved:
        selection = Selection("1cases", fold, "cases", 3, False, (case,))
        assert plan(named(17), first.with_selection(selection)).splits.selections == {}
