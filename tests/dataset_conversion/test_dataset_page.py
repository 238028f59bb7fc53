"""The page of datasets: it is what the converters state, and so is the list of the command."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from dataset_conversion.catalogue import CONVERTERS, load_converters
from dataset_conversion.cli import main
from dataset_conversion.converter import Converter
from dataset_conversion.facts import facts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dataset_page", ROOT / "docs" / "dataset_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_converters_state(pages: ModuleType) -> None:
    assert pages.PAGE.read_text(encoding="utf-8") == pages.as_page(load_converters()), (
        "docs/datasets.md is out of date: python docs/dataset_page.py"
    )


def test_the_list_of_the_command_states_every_fact_of_the_page(
    pages: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    page = pages.as_page(load_converters())
    assert main(["-d", "list", *CONVERTERS.names()]) == 0
    said = capsys.readouterr().out
    for converter in load_converters():
        assert converter.summary in said
        for fact in facts(converter):
            for piece in (fact.text, *fact.lines, *(cell for row in fact.rows for cell in row)):
                assert piece in said
                assert piece in page.replace("\\|", "|")


def test_label_tables_and_lists_are_on_the_page(pages: ModuleType) -> None:
    page = pages.as_page(load_converters())
    assert "| 8 | pancreas | 11 | 8 | 6 |" in page
    assert "- split 10pct: 221 slices of 18 cases" in page
    assert "| --modality |" in page
    assert "Home ids in use: 1 Synapse, 2 LA, 3 PROMISE12" in page
    assert "Free for a new converter: 8 to 10, 21 to 89, 91 to 99." in page


def test_two_converters_cannot_share_a_home(pages: ModuleType) -> None:
    class Twin(Converter):
        name = "Twin"
        home = 14

    with pytest.raises(ValueError, match="Decathlon and Twin"):
        pages.homes([Twin])
