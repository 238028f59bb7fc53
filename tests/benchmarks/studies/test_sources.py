"""The datasets of the study name converters that there are."""

from __future__ import annotations

import pytest

from benchmarks.studies.sources import SOURCES
from dataset_conversion.catalogue import find_converter
from samora_pipeline.contracts.splits import parse_budget


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_names_a_converter_and_budgets_that_can_be_read(name: str) -> None:
    source = SOURCES[name]
    assert find_converter(source.converter).name == source.converter
    assert None not in [parse_budget(budget) for budget in source.budgets]
