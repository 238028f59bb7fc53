from __future__ import annotations

import pytest

from samora_pipeline.contracts.splits import Selection
from samora_pipeline.errors import DataError, UsageError
from trainers.pool.held_out import hold_out

CASES = tuple(f"case{number}" for number in range(8))


def selection(seed: int = 0, **changes: object) -> Selection:
    return Selection("full", "official", "cases", seed, False, CASES, **changes)  # type: ignore[arg-type]


def own(case: str) -> str:
    return case


def test_nothing_is_held_out_unless_asked_for() -> None:
    assert hold_out(selection(), 0, own) == (selection(), ())


@pytest.mark.parametrize("count", [1, 3, 7])
def test_learned_from_and_held_out_are_a_partition(count: int) -> None:
    kept, out = hold_out(selection(), count, own)
    assert len(out) == count
    assert sorted((*kept.cases, *out)) == list(CASES)
    assert hold_out(selection(), count, own) == (kept, out)


def test_the_seed_decides_and_more_holds_what_fewer_held() -> None:
    drawn = {hold_out(selection(seed), 2, own)[1] for seed in range(12)}
    assert len(drawn) > 3
    assert set(hold_out(selection(), 2, own)[1]) < set(hold_out(selection(), 4, own)[1])


def test_patients_are_not_divided() -> None:
    def patient(case: str) -> str:
        return str(int(case[-1]) // 2)

    for seed in range(6):
        kept, out = hold_out(selection(seed), 3, patient)
        assert len(out) == 4
        assert {patient(case) for case in kept.cases}.isdisjoint(map(patient, out))


def test_what_cannot_be_held_out_is_refused() -> None:
    with pytest.raises(DataError, match="E-SPLIT-07"):
        hold_out(selection(), 8, own)
    with pytest.raises(DataError, match="E-SPLIT-07"):
        hold_out(selection(slices={"case0": (1, 2)}), 1, own)
    with pytest.raises(UsageError, match="E-SET-05"):
        hold_out(selection(), -1, own)
