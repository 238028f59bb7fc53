"""The label orders of Synapse: told by volumes, and refused where these leave a doubt."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import pytest

from dataset_conversion.synapse_labels import ORDERS, find_order
from samora_pipeline.errors import DataError
from tests.dataset_conversion.public_sources import in_order, organs


def _tell(*cases: Mapping[int, int]) -> str:
    return find_order([partial(dict, counts) for counts in cases], "x").order


def _counts(label: np.ndarray) -> dict[int, int]:
    values, counts = np.unique(label, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_both_orders_of_eight_organs_name_the_same_organs() -> None:
    # Literal restatement of the two published tables, BTCV value to value.
    samed = {1: 1, 2: 2, 3: 3, 4: 4, 6: 5, 7: 6, 8: 7, 11: 8}
    transunet = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8}
    raw = {values[0]: name for name, values in ORDERS["btcv"].values.items() if name != "background"}
    for table, order in ((samed, "samed"), (transunet, "transunet")):
        assert {raw[old]: (new,) for old, new in table.items()} == ORDERS[order].values
    assert set(ORDERS["btcv"].values["background"]) == {0, 5, 9, 10, 12, 13}


@pytest.mark.parametrize("order", ["samed", "transunet", "btcv"])
def test_each_order_is_told(order: str) -> None:
    assert _tell(*(_counts(in_order(organs(seed), order)) for seed in range(4))) == order


def test_one_patient_with_a_distended_gallbladder_does_not_mislead() -> None:
    usual = {1: 80, 2: 30, 3: 150, 4: 150, 5: 1500, 6: 80, 7: 200, 8: 300}
    assert _tell({**usual, 2: 290}, *[usual] * 6) == "transunet"


def test_a_gallbladder_that_was_removed_is_no_obstacle() -> None:
    assert _tell({1: 80, 3: 150, 4: 150, 5: 1500}) == "transunet"
    assert _tell({1: 80, 2: 150, 3: 150, 5: 1500}) == "samed"


@pytest.mark.parametrize(
    "counts",
    [
        {1: 80, 2: 100, 3: 150, 4: 120, 5: 1500},
        {1: 80, 3: 150, 5: 1500},
        {1: 3000, 2: 20, 4: 120, 5: 1500},
        {0: 10},
        {5: 900, 2: 10, 4: 100, 17: 4},
        {6: 10, 7: 900, 12: 3},
    ],
    ids=["similar", "neither", "liver not largest", "nothing", "beyond 13", "13 without a liver"],
)
def test_what_leaves_a_doubt_is_refused_with_the_option_that_settles_it(counts: dict[int, int]) -> None:
    with pytest.raises(DataError) as caught:
        _tell(counts, counts, counts)
    assert caught.value.code == "E-LABEL-11"
    assert "--label-order" in caught.value.fix


def test_later_cases_settle_what_the_first_ones_leave_open() -> None:
    doubtful = {2: 100, 4: 120, 5: 1500}
    assert _tell(doubtful, doubtful, doubtful, {2: 100, 4: 900, 5: 1500}) == "transunet"


def test_a_damaged_case_is_passed_over() -> None:
    def damaged() -> Mapping[int, int]:
        raise DataError("E-IMG-02", "damaged")

    told = find_order([damaged, lambda: {2: 10, 4: 100, 5: 900}], "train_npz")
    assert told.order == "transunet"
    assert "train_npz" in told.why
    assert "1 cases" in told.why
