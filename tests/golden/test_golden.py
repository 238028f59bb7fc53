"""Training gives the numbers that it gave when they were recorded, and experts are shared by the same runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden.compare import program
from tests.golden.differences import differences

STORED = Path(__file__).with_name("values.json")
TOLERANCE = 1e-4


def test_a_changed_loss_setting_and_group_are_told() -> None:
    old = json.loads(STORED.read_text())
    new = json.loads(STORED.read_text())
    assert not list(differences(old, new))
    run = new["runs"]["samora"]
    run["losses"]["finetune"]["loss"] += 1e-9
    run["settings"]["finetune"]["learning_rate"] *= 1.00001
    new["shared"]["expert_image"] = [[name for group in new["shared"]["expert_image"] for name in group]]
    found = list(differences(old, new, TOLERANCE))
    assert len(found) == 2
    assert len(list(differences(old, new))) == 3


@pytest.mark.slow
def test_the_golden_runs_give_the_stored_values(tmp_path: Path) -> None:
    output = tmp_path / "values.json"
    root = Path(__file__).resolve().parents[2]
    assert program(root, output).wait() == 0
    stored: Any = json.loads(STORED.read_text())
    assert list(differences(stored, json.loads(output.read_text()), TOLERANCE)) == []
