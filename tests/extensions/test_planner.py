"""A planner from outside the repository: one class in a module of its own, named on the command line."""

import json
import sys
from pathlib import Path

import pytest

from planners.cli import main
from planners.experiment_planner import DEFAULT_PLANNER, PLANNERS, ExperimentPlanner
from planners.preparation import is_current
from tests.raw_data import make_raw_dataset

NAME = "Dataset007_Boxes"
PLANNER = """
from planners.experiment_planner import ExperimentPlanner
from samora_pipeline.contracts.plans import Planned


class LargerSlices(ExperimentPlanner):
    def input_size(self):
        finest = min(min(case.spacing) for case in self.cases)
        return Planned(320, f"the finest pixels have {finest:g} mm")
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "outside_planning.py").write_text(PLANNER)
    monkeypatch.syspath_prepend(tmp_path)
    make_raw_dataset(tmp_path / "raw" / NAME, cases=3)
    return tmp_path


def plan(root: Path) -> dict[str, object]:
    plain: dict[str, object] = json.loads((root / "preprocessed" / NAME / "plans.json").read_text())
    return plain


def test_a_planner_from_outside_plans_by_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(root), "--planner", "outside_planning:LargerSlices"]) == 0
    assert plan(root)["planner"] == "outside_planning:LargerSlices"
    assert plan(root)["input_size"] == {"value": 320, "why": "the finest pixels have 1.5 mm"}
    # Checking what is stale runs no code that only a file names.
    sys.modules.pop("outside_planning")
    assert is_current(root / "raw" / NAME, root / "preprocessed" / NAME)
    assert "outside_planning" not in sys.modules
    assert main(["--root", str(root), "-d", "7"]) == 0
    assert plan(root)["planner"] == DEFAULT_PLANNER
    assert "--planner outside_planning:LargerSlices keeps it" in capsys.readouterr().out


def test_unknown_planners_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ExperimentPlaner", "outside_planning:Missing", "no_such_module:Planner"):
        assert main(["--root", str(root), "--planner", name]) == 2
        assert "E-NAME-01" in capsys.readouterr().err
    assert not (root / "preprocessed" / NAME / "plans.json").exists()


@pytest.mark.parametrize("name", PLANNERS.names())
def test_planner(name: str) -> None:
    assert issubclass(PLANNERS.get(name), ExperimentPlanner)
    assert (PLANNERS.get(name).__doc__ or "").strip()
