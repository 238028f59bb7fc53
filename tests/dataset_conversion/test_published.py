"""Published lists: what is shipped, and what is left of them for a partial copy."""

from __future__ import annotations

from dataset_conversion.survey import limit, read_published

# Slices per training case in the published list of all training slices (2211 lines).
SLICES = {
    "case0005": 117,
    "case0006": 131,
    "case0007": 163,
    "case0009": 149,
    "case0010": 148,
    "case0021": 143,
    "case0023": 96,
    "case0024": 124,
    "case0026": 131,
    "case0027": 88,
    "case0028": 89,
    "case0030": 153,
    "case0031": 93,
    "case0033": 104,
    "case0034": 98,
    "case0037": 99,
    "case0039": 90,
    "case0040": 195,
}


def test_synapse_has_eighteen_and_twelve_cases_and_221_slices() -> None:
    published = read_published("synapse")
    assert published.split is not None
    assert published.split.train == tuple(SLICES)
    assert len(published.split.test) == 12
    assert "case0008" in published.split.test
    assert sum(SLICES.values()) == 2211
    budget = published.budgets["10pct"]
    assert budget.unit == "slices"
    assert sum(map(len, budget.slices.values())) == int(0.1 * 2211) == 221
    assert budget.slices["case0005"] == (4, 5, 22, 46, 58, 60, 65, 77, 91, 110, 116)
    assert budget.slices["case0034"] == (5, 16, 44, 61, 62, 66, 70, 72, 75, 86)
    assert all(0 <= min(taken) <= max(taken) < SLICES[case] for case, taken in budget.slices.items())


def test_a_whole_copy_keeps_its_lists() -> None:
    published = read_published("synapse")
    assert published.split is not None
    assert limit(published, {*published.split.train, *published.split.test}) == (published, ())


def test_a_partial_copy_keeps_what_it_has_and_names_the_rest() -> None:
    here, notes = limit(read_published("synapse"), {"case0005", "case0040", "case0001"})
    assert here.split is not None
    assert (here.split.train, here.split.test) == (("case0005", "case0040"), ("case0001",))
    assert here.budgets["10pct"].cases == ("case0005", "case0040")
    assert set(here.budgets["10pct"].slices) == {"case0005", "case0040"}
    assert notes[0].startswith("16 of the 18 cases of the published training set are missing: case0006, case0007")
    assert notes[1].startswith("11 of the 12 cases of the published test set are missing")
    assert notes[2].startswith("16 of the 18 cases of the published list 10pct are missing")


def test_a_budget_without_any_case_is_dropped() -> None:
    here, _ = limit(read_published("synapse"), {"case0001"})
    assert here.budgets == {}
