"""The table of step costs names every stage that can be built, and a row has what a step must have."""

from __future__ import annotations

import pytest

from benchmarks.step_costs import TITLES, main
from tests.pretend_cuda.insides import STAGES


def test_every_stage_has_a_row() -> None:
    assert TITLES.keys() == STAGES.keys()


@pytest.mark.slow
def test_a_row_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rows", "finetune", "--lines", "1"]) == 0
    text = capsys.readouterr().out
    (row,) = [line for line in text.splitlines() if line.startswith("| finetune SAMora")]
    peak, tflop, moved, launches, waits, _ = (float(cell.replace(",", "")) for cell in row.split("|")[2:-1])
    assert 1 < peak < 80
    assert tflop > 1
    assert moved > peak
    assert launches > waits > 0
    assert "waits, finetune SAMora" in text
