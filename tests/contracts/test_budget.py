from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from samora_pipeline.contracts.dataset import PublishedBudget
from samora_pipeline.contracts.splits import Budget, Count, Fold, Full, Share, Splits, parse_budget, select
from samora_pipeline.errors import DataError

CASES = {f"case_{i:02d}": 10 + i for i in range(20)}
SPLITS = Splits("Dataset001_Test", 0, "slices", {"0": Fold(tuple(CASES), ()), "official": Fold(tuple(CASES), ())})


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("full", Full()),
        ("10pct", Share(10, None)),
        ("7.5pct_cases", Share(7.5, "cases")),
        ("4cases", Count(4, "cases")),
        ("120slices", Count(120, "slices")),
    ],
)
def test_the_grammar(name: str, budget: Budget) -> None:
    assert parse_budget(name) == budget


@pytest.mark.parametrize("name", ["10%", "0.1", "0pct", "101pct", "0cases", "-3cases", "pct", "4scans", "10pct_organs"])
def test_what_is_not_in_the_grammar_is_refused(name: str) -> None:
    assert parse_budget(name) is None
    with pytest.raises(DataError) as caught:
        select(SPLITS, name, "0", 0, CASES)
    assert caught.value.code == "E-SPLIT-04"


def test_ten_percent_of_slices_is_drawn_over_all_cases() -> None:
    selection = select(SPLITS, "10pct", "0", 0, CASES)
    total = sum(CASES.values())
    assert sum(len(chosen) for chosen in selection.slices.values()) == total // 10
    assert len(selection.cases) > 10
    assert all(max(chosen) < CASES[case] for case, chosen in selection.slices.items())


@pytest.mark.parametrize("unit", ["cases", "slices"])
def test_smaller_budgets_are_subsets_for_one_seed(unit: str) -> None:
    def ids(name: str) -> set[tuple[str, int | None]]:
        selection = select(SPLITS, name, "0", 3, CASES)
        if unit == "cases":
            return {(case, None) for case in selection.cases}
        return {(case, index) for case, chosen in selection.slices.items() for index in chosen}

    nested = [ids(f"{percent}pct_{unit}") for percent in (5, 10, 25, 50, 100)]
    assert all(small < large for small, large in pairwise(nested))


def test_another_seed_draws_others_and_the_same_seed_the_same() -> None:
    assert select(SPLITS, "4cases", "0", 0, CASES) == select(SPLITS, "4cases", "0", 0, CASES)
    assert select(SPLITS, "4cases", "0", 0, CASES).cases != select(SPLITS, "4cases", "0", 1, CASES).cases


def test_a_published_list_wins_by_name_in_the_official_fold_only() -> None:
    published = {"10pct": PublishedBudget("slices", ("case_01", "elsewhere"), {"case_01": (2, 5)})}
    splits = replace(SPLITS, published=published)
    official = select(splits, "10pct", "official", 0, CASES)
    assert official.published
    assert official.cases == ("case_01",)
    assert official.slices == {"case_01": (2, 5)}
    assert not select(splits, "10pct", "0", 0, CASES).published


def test_a_stored_selection_is_used_as_it_is() -> None:
    stored = replace(select(SPLITS, "4cases", "0", 0, CASES), cases=("case_07",))
    assert select(SPLITS.with_selection(stored), "4cases", "0", 0, CASES).cases == ("case_07",)


def test_more_than_there_is_cannot_be_asked_for() -> None:
    with pytest.raises(DataError, match="E-SPLIT-05"):
        select(SPLITS, "21cases", "0", 0, CASES)
