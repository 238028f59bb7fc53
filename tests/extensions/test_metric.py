"""A metric from outside of the repository: scored, tabled and compared without a line of code in it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.errors import UsageError
from samora_pipeline.evaluation.cli import main
from samora_pipeline.evaluation.comparison import compare, group_seeds
from samora_pipeline.evaluation.run_scores import read_run
from samora_pipeline.evaluation.summary import score_folder, sum_up_folds
from samora_pipeline.evaluation.tables import render
from samora_pipeline.reporting.html_blocks import Table
from samora_pipeline.reporting.report_scores import organ_section
from tests.evaluation.conftest import make_dataset
from tests.fake_run import random_dice, write_scored_run

MODULE = '''
from samora_pipeline.contracts.scores import MetricRecord
from samora_pipeline.evaluation.metric import Metric


class VolumeError(Metric):
    """Difference of the volumes in mm3, from the masks; a missed organ misses all of its volume."""

    record = MetricRecord("volume_error", higher_is_better=False, digits=1)
    false_positive = 7.0

    def score(self, organ):
        reference, prediction = organ.masks
        x, y, z = organ.spacing
        return abs(float(prediction.sum()) - float(reference.sum())) * x * y * z

    def missed(self, organ):
        return float(organ.masks[0].sum())


class Dice(VolumeError):
    record = MetricRecord("Dice")
'''
NAME = "metrics_of_mine:VolumeError"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module and a data set beside it, on the path of this process and of its workers."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "metrics_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"), prepend=":")
    monkeypatch.delitem(sys.modules, "metrics_of_mine", raising=False)
    return make_dataset(tmp_path)


def test_it_is_in_the_summary_the_csv_and_the_printed_table(outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-g", str(outside / "labelsTs"), "-p", str(outside / "preds"), "--metric", NAME, "-np", "2"]
    assert main(arguments) == 0
    summary = read_json(Summary, outside / "preds" / "summary.json")
    # Masks of 6 x 6 x 4 and 6 x 6 x 4 voxels, one of them shifted; spleen of 3 x 3 x 3 voxels.
    per_case = {
        row.case: {key: one.value("volume_error") for key, one in row.metrics.items()}
        for row in summary.metric_per_case
    }
    assert per_case == {"a": {"1": 0, "2": 0}, "b": {"1": 0, "2": 0}, "c": {"1": 0, "2": None}, "d": {"1": 0, "2": 27}}
    assert summary.mean["2"].value("volume_error") == 9
    assert summary.sam_family.mean["2"].value("volume_error") == 7 / 4
    assert summary.intervals.mean["2"]["volume_error"] is not None
    assert [record.name for record in summary.metrics] == ["volume_error"]
    frame = pd.read_csv(outside / "preds" / "summary.csv")
    assert frame["volume_error"].sum() == 27
    printed = capsys.readouterr().out
    assert printed.count("volume error") == 2


def test_masks_and_spacing_are_those_of_the_files(outside: Path) -> None:
    (outside / "preds" / "d.nii.gz").write_bytes((outside / "preds" / "c.nii.gz").read_bytes())
    (outside / "labelsTs" / "d.nii.gz").write_bytes((outside / "labelsTs" / "c.nii.gz").read_bytes())
    swapped = score_folder(outside / "preds", outside / "labelsTs", outside / "dataset.json", metrics=(NAME,))
    plain = score_folder(outside / "preds", outside / "labelsTs", outside / "dataset.json")
    assert swapped.mean["1"].Dice == plain.mean["1"].Dice
    assert not plain.metrics
    assert plain.mean["1"].value("volume_error") is None


def test_the_report_and_the_comparison_need_none_of_its_code(tmp_path: Path) -> None:
    runs = []
    for seed, name in enumerate(("one", "other")):
        run = write_scored_run(tmp_path, random_dice(seed), name=name)
        path = run / "fold_official" / "summary.json"
        plain = json.loads(path.read_text())
        plain["metrics"] = [{"name": "gone", "higher_is_better": False, "digits": 1}]
        plain["foreground_mean"]["further"]["gone"] = 4.0 + seed
        for key in plain["mean"]:
            plain["mean"][key]["further"]["gone"] = 4.0 + seed
        for row in plain["metric_per_case"]:
            for scores in row["metrics"].values():
                scores["further"]["gone"] = 4.0 + seed
        path.write_text(json.dumps(plain))
        runs.append(read_run(str(run), tmp_path))
    variants = group_seeds(runs)
    (table,) = (one for one in compare(variants, variants[0], "physical") if one.record.name == "gone")
    assert table.overall[0].test.difference == 1
    assert not table.record.higher_is_better
    assert "gone" in render(runs[1].summary)
    blocks = {getattr(block, "name", ""): block for block in organ_section(runs[1].summary, ()).blocks}
    shown = blocks["organ-table"]
    assert isinstance(shown, Table)
    assert "gone [95 %]" in shown.header


def test_folds_keep_it(outside: Path) -> None:
    for number, case in enumerate("ab"):
        for folder in ("labelsTs", "preds"):
            own = outside / f"{folder}{number}" / f"{case}.nii.gz"
            own.parent.mkdir()
            own.write_bytes((outside / folder / own.name).read_bytes())
        summary = score_folder(outside / f"labelsTs{number}", outside / f"preds{number}", metrics=(NAME,))
        write_json(summary, outside / "RUN" / f"fold_{number}" / "summary.json")
    summed = sum_up_folds(outside / "RUN")
    assert summed.mean["1"].value("volume_error") == 0
    assert [record.name for record in summed.metrics] == ["volume_error"]


@pytest.mark.parametrize("name", ["metrics_of_mine:Dice", "metrics_of_mine:MetricRecord", "metrics_of_mine:Gone"])
def test_a_taken_name_and_what_is_no_metric_are_refused(outside: Path, name: str) -> None:
    with pytest.raises(UsageError, match="E-NAME-01"):
        score_folder(outside / "labelsTs", outside / "preds", metrics=(name,))
