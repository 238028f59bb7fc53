from __future__ import annotations

import pytest

from samora_pipeline.contracts.anatomy_codes import TISSUE, anatomy_code
from samora_pipeline.contracts.colours import GREY, ORGAN_COLOURS, label_colour, organ_style
from samora_pipeline.contracts.label_table import label_table
from samora_pipeline.contracts.labels import LabelScheme


def test_255_labels_have_255_colours_and_the_first_are_those_of_the_reports() -> None:
    colours = [label_colour(index) for index in range(255)]
    assert len(set(colours)) == 255
    assert all(0 <= value <= 255 for colour in colours for value in colour)
    for index in range(len(ORGAN_COLOURS)):
        assert "#{:02X}{:02X}{:02X}".format(*colours[index]) == organ_style(index).colour


def test_the_table_follows_the_values_and_the_colours_follow_the_outputs() -> None:
    table = label_table(LabelScheme({"spleen": (7,), "aorta": (1,)}, ignore=9))
    assert [(entry.value, entry.name) for entry in table] == [(1, "aorta"), (7, "spleen"), (9, "ignore")]
    assert [entry.colour for entry in table] == [label_colour(1), label_colour(0), GREY]


def test_what_keeps_the_value_of_a_region_is_named_without_what_is_painted_over_it() -> None:
    scheme = LabelScheme({"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}, region_order=(1, 2, 3))
    assert [entry.name for entry in label_table(scheme)] == [
        "whole without core, enhancing",
        "core without enhancing",
        "enhancing",
    ]
    one_value = LabelScheme({"whole": (1, 2), "core": (2,)}, region_order=(1, 1))
    assert [(entry.value, entry.name) for entry in label_table(one_value)] == [(1, "core")]


@pytest.mark.parametrize(
    ("name", "code", "side"),
    [
        ("liver", "10200004", None),
        ("right_kidney", "64033007", "Right"),
        ("Kidney (left)", "64033007", "Left"),
        ("left_atrium", "82471001", None),
        ("left adrenal gland", "23451007", "Left"),
        ("postcava", "64131007", None),
        ("label_3", TISSUE.value, None),
    ],
)
def test_names_of_structures_have_codes(name: str, code: str, side: str | None) -> None:
    found = anatomy_code(name)
    assert found.kind.value == code
    assert (found.side.meaning if found.side else None) == side


def test_codes_are_those_of_pydicom() -> None:
    codedict = pytest.importorskip("pydicom.sr.codedict", reason="pydicom is in the extra dicom")
    concepts = [getattr(codedict.codes.SCT, name) for name in dir(codedict.codes.SCT)]
    known = {str(concept.value) for concept in concepts if hasattr(concept, "value")}
    names = ("aorta", "cyst", "duodenum", "esophagus", "gallbladder", "left atrium", "portal vein", "tumour", "uterus")
    for name in (*names, "right kidney"):
        code = anatomy_code(name)
        assert {code.kind.value, code.category.value} <= known
        assert code.side is None or code.side.value in known
