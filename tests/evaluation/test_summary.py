"""Cross-validation summed up: one row per case, and every way in which folds do not fit together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.errors import DataError
from samora_pipeline.evaluation.scoring import Rules, score_files
from samora_pipeline.evaluation.summary import label_names, sum_up_folds, summarize

SCHEME = LabelScheme({"liver": (1,), "spleen": (2,)})
NAMES = label_names(SCHEME)
Organs = Callable[..., npt.NDArray[np.uint8]]


@pytest.fixture
def run(dataset: Path) -> Path:
    """Folds 0 and 1 with two cases each, and an official fold that must not be mixed in."""
    run = dataset / "RUN"
    for fold, cases in (("0", "ab"), ("1", "cd"), ("official", "ab")):
        files = [(dataset / "labelsTs" / f"{case}.nii.gz", dataset / "preds" / f"{case}.nii.gz") for case in cases]
        scores = score_files(files, Rules(SCHEME), {"a": "p1", "b": "p1"}, fold=fold)
        write_json(summarize(scores, NAMES, warnings=("PHANTOM",)), run / f"fold_{fold}" / "summary.json")
    return run


def test_folds_give_what_all_cases_together_give(run: Path, dataset: Path) -> None:
    summed = sum_up_folds(run)
    files = [(dataset / "labelsTs" / f"{case}.nii.gz", dataset / "preds" / f"{case}.nii.gz") for case in "abcd"]
    together = summarize(score_files(files, Rules(SCHEME), {"a": "p1", "b": "p1"}), NAMES, warnings=("PHANTOM",))
    assert [(row.case, row.fold) for row in summed.metric_per_case] == [("a", "0"), ("b", "0"), ("c", "1"), ("d", "1")]
    assert summed.folds == ("0", "1")
    rows = tuple(replace(row, fold=None) for row in summed.metric_per_case)
    assert replace(summed, folds=(), metric_per_case=rows) == together


def test_repeating_a_summary_gives_the_same_intervals(dataset: Path) -> None:
    files = [(dataset / "labelsTs" / f"{case}.nii.gz", dataset / "preds" / f"{case}.nii.gz") for case in "abcd"]
    scores = score_files(files, Rules(SCHEME))
    first, again = summarize(scores, NAMES), summarize(scores, NAMES)
    assert first.intervals == again.intervals
    assert first.intervals.foreground_mean["Dice"] is not None


def test_an_unscored_fold_is_named(run: Path) -> None:
    (run / "fold_2").mkdir()
    with pytest.raises(DataError, match=r"(?s)E-EVAL-05.*no summary\.json in fold_2"):
        sum_up_folds(run)


def test_a_run_without_numbered_folds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fold_official").mkdir()
    with pytest.raises(DataError, match=r"(?s)E-EVAL-05.*found: no folder fold_0"):
        sum_up_folds(tmp_path)


def test_a_case_in_two_folds_is_refused(run: Path) -> None:
    (run / "fold_1" / "summary.json").write_text((run / "fold_0" / "summary.json").read_text())
    with pytest.raises(DataError, match=r"(?s)E-EVAL-05.*scored in two folds: a, b"):
        sum_up_folds(run)


def test_folds_scored_with_another_tolerance_are_refused(run: Path) -> None:
    path = run / "fold_1" / "summary.json"
    path.write_text(path.read_text().replace('"nsd_tolerance": 2.0', '"nsd_tolerance": 1.0'))
    with pytest.raises(DataError, match=r"E-EVAL-05 "):
        sum_up_folds(run)


def test_one_case_has_means_but_no_intervals(dataset: Path) -> None:
    files = [(dataset / "labelsTs" / "b.nii.gz", dataset / "preds" / "b.nii.gz")]
    summary = summarize(score_files(files, Rules(SCHEME)), NAMES)
    assert summary.mean["1"].Dice == summary.metric_per_case[0].metrics["1"].Dice
    assert set(summary.intervals.foreground_mean.values()) == {None}
