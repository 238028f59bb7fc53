"""The page of datasets: it is what the converters state, and so is the list of the command."""

from __future__ import annotations

import pytest

from dataset_conversion.catalogue_page import PAGE, as_page, facts
from dataset_conversion.cli import main
from dataset_conversion.converter import load_converters


def test_the_page_is_what_the_converters_state() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_page(load_converters()), (
        "docs/datasets.md is out of date: python -m dataset_conversion.catalogue_page"
    )


def test_the_list_of_the_command_states_every_fact_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    page = as_page(load_converters())
    assert main(["-d", "list"]) == 0
    said = capsys.readouterr().out
    for converter in load_converters():
        assert converter.summary in said
        for fact in facts(converter):
            for piece in (fact.text, *fact.lines, *(cell for row in fact.rows for cell in row)):
                assert piece in said
                assert piece in page.replace("\\|", "|")


def test_label_tables_and_lists_are_on_the_page() -> None:
    page = as_page(load_converters())
    assert "| 8 | pancreas | 11 | 8 | 6 |" in page
    assert "- split 10pct: 221 slices of 18 cases" in page
    assert "| --modality |" in page
