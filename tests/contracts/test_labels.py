from __future__ import annotations

import numpy as np
import pytest

from samora_pipeline.contracts.labels import LabelScheme, label_scheme
from samora_pipeline.errors import DataError

PLAIN = label_scheme({"background": 0, "a": 3, "b": 1, "ignore": 7}, None)
REGIONS = label_scheme({"background": 0, "whole": (1, 2), "core": (2,), "ignore": 3}, (1, 2))


def test_classes_are_numbered_in_the_order_of_the_declaration() -> None:
    values = np.array([[0, 1], [3, 7]], np.uint8)
    assert PLAIN.encode(values).tolist() == [[0, 2], [1, -1]]
    assert PLAIN.num_outputs == 3


def test_decoding_undoes_encoding_for_classes() -> None:
    values = np.array([0, 1, 3, 3, 0], np.uint8)
    classes = PLAIN.encode(values)
    scores = np.eye(3, dtype=np.float32)[classes].T
    assert PLAIN.decode(scores).tolist() == values.tolist()


def test_regions_overlap_and_are_painted_in_order() -> None:
    assert REGIONS.regions
    assert REGIONS.num_outputs == 2
    values = np.array([0, 1, 2, 3], np.uint8)
    encoded = REGIONS.encode(values)
    assert encoded.tolist() == [0, 1, 2, -1]
    masks = REGIONS.region_masks()
    scores = np.where(masks[:, np.clip(encoded, 0, None)], 1.0, -1.0)
    assert REGIONS.decode(scores).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "order", "said"),
    [
        ({"a": 1}, None, "background"),
        ({"background": 1, "a": 2}, None, "background"),
        ({"background": 0}, None, "a foreground label"),
        ({"background": 0, "a": 1, "b": 1}, None, "declared twice"),
        ({"background": 0, "a": 300}, None, "out of range"),
        ({"background": 0, "a": 2, "ignore": 1}, None, "ignore label must be the highest"),
        ({"background": 0, "a": (1, 2), "b": 2}, None, "regions_class_order"),
    ],
)
def test_a_contradictory_declaration_is_refused(
    labels: dict[str, int | tuple[int, ...]], order: tuple[int, ...] | None, said: str
) -> None:
    with pytest.raises(DataError, match=said) as caught:
        label_scheme(labels, order)
    assert caught.value.code == "E-LABEL-01"


def test_all_declared_values_are_known() -> None:
    assert PLAIN.values == {0, 1, 3, 7}
    assert LabelScheme({"a": (1,)}).values == {0, 1}
