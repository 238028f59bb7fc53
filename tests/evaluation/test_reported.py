"""The reported values: what the file says of itself, and that each correction does what its reason says."""

from __future__ import annotations

from itertools import product

import pytest

from samora_pipeline.evaluation.reported import reported, reported_file, reported_table

ORGANS = ("Spleen", "Right Kidney", "Left Kidney", "Gallbladder", "Liver", "Stomach", "Aorta", "Pancreas")
TABLES = {table.number: table for table in reported_file().tables}


def test_all_tables_of_results_are_there() -> None:
    assert sorted(TABLES) == [1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15]
    with pytest.raises(KeyError):
        reported_table(7)


def test_rows_fit_their_table() -> None:
    for one in TABLES.values():
        assert (one.part_of is None) == bool(one.rows)
        assert len({row.key for row in one.rows}) == len(one.rows)
        assert all(len(row.key) == len(one.keys) and len(row.values) == len(one.columns) for row in one.rows)
        if one.part_of is not None:
            source = TABLES[one.part_of]
            assert {one.named_there.get(name, name) for name in one.columns} <= set(source.columns)


def test_corrections_are_about_rows_and_columns_that_exist() -> None:
    names = [correction.name for correction in reported_file().corrections]
    assert len(set(names)) == len(names)
    for correction in reported_file().corrections:
        assert len(correction.reason) > 30
        for number in correction.tables:
            own = TABLES[number]
            source = TABLES[own.part_of] if own.part_of is not None else own
            assert set(correction.rows) <= {row.key for row in source.rows}
            assert {*correction.columns, *correction.also} <= set(own.columns)
            assert set(correction.holds) == set(correction.holds.values()) <= set(own.columns)


def test_organs_of_samed_are_those_of_its_own_readme() -> None:
    readme = {
        "Aorta": 87.77,
        "Gallbladder": 69.11,
        "Left Kidney": 80.45,
        "Right Kidney": 79.95,
        "Liver": 94.80,
        "Pancreas": 72.17,
        "Spleen": 88.72,
        "Stomach": 82.06,
    }
    for number, (organ, value) in product((1, 13), readme.items()):
        found = reported(number, ("full", "SAMed"), organ)
        assert found is not None
        assert found.value == value
        assert "TransUNet" in found.notes[0]


def test_organs_of_unetr_have_the_left_kidney_first() -> None:
    for organ, value in (("Spleen", 85.00), ("Right Kidney", 84.52), ("Left Kidney", 85.60), ("Stomach", 70.46)):
        found = reported(13, ("full", "UNETR"), organ)
        assert found is not None
        assert found.value == value


def test_rows_that_are_right_stay_as_printed() -> None:
    for organ, value in zip(ORGANS, (85.82, 82.25, 82.62, 63.15, 92.72, 67.20, 78.72, 52.12), strict=True):
        found = reported(1, ("10%", "SAMed"), organ)
        assert found is not None
        assert found.value == value


def test_means_agree_with_their_organs_or_both_are_quoted() -> None:
    for row in TABLES[13].rows:
        values = []
        for organ in ORGANS:
            one = reported(13, row.key, organ)
            if one is None:
                pytest.fail("every organ has a value")
            values.append(one.value)
        mean = reported(13, row.key, "Mean Dice")
        if mean is None:
            pytest.fail("every row has a mean")
        own = sum(values) / len(values)
        assert abs(own - (mean.value if mean.also is None else mean.also)) < 0.0151
        assert (abs(own - mean.value) > 0.0151) == (mean.also is not None)


def test_tables_agree_with_each_other() -> None:
    for method in ("SAMed", "SAMora", "SAMed-2", "SAMora-2", "H-SAM", "H-SAMora"):
        found = [
            reported(13, ("10%", method), "Mean Dice"),
            reported(1, ("10%", method), "Mean Dice"),
            reported(14, (method,), "10% Synapse"),
            reported(2, (method,), "10% Synapse"),
            reported(3, (method,), "Mean Dice"),
            reported(9, (method,), "Rank = 4"),
        ]
        assert len({value.value for value in found if value}) == 1
        assert None not in found
    fusions = reported(4, ("2", "1", "1", "HL-Attn"), "Mean Dice"), reported(12, ("H-SAMora",), "Mean Dice")
    assert [value and value.value for value in fusions] == [84.34, 84.34]


def test_nothing_is_reported_where_the_paper_has_nothing() -> None:
    assert reported(14, ("UA-MT",), "10% Synapse") is None
    assert reported(14, ("Another",), "10% Synapse") is None
    assert reported(9, ("SAMora",), "Rank = 8") is None
    assert reported(12, ("H-SAM",), "CPT (h)") is None
