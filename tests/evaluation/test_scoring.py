"""Cases from files: what is scored, and every fault that must not pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.errors import DataError
from samora_pipeline.evaluation.scoring import Rules, pair_files, score_case, score_files
from samora_pipeline.parallel import Engine

Save = Callable[..., None]
Organs = Callable[..., npt.NDArray[np.uint8]]

RULES = Rules(LabelScheme({"liver": (1,), "spleen": (2,)}))


def score(tmp_path: Path, save: Save, reference: Any, prediction: Any, rules: Rules = RULES) -> Any:
    save(tmp_path / "truth" / "case.one.nii.gz", reference)
    save(tmp_path / "guess" / "case.one.nii.gz", prediction)
    return score_case(rules, (tmp_path / "truth" / "case.one.nii.gz", tmp_path / "guess" / "case.one.nii.gz"))


def test_physical_is_in_mm_and_sam_family_in_voxels(tmp_path: Path, save: Save, make_organs: Organs) -> None:
    scores = score(tmp_path, save, make_organs(), make_organs(1))
    assert scores.physical.case == scores.physical.patient == "case.one"
    assert scores.physical.reference_file == scores.physical.prediction_file == "case.one.nii.gz"
    # The liver moves one voxel of 0.8 mm along x, the spleen one of 2.5 mm along z.
    moved = [scores.physical.metrics[key].HD for key in "12"]
    assert moved == pytest.approx([0.8, 2.5])
    assert scores.sam_family.metrics["1"].HD95 == scores.sam_family.metrics["2"].HD95 == 1
    assert scores.physical.metrics["1"].Dice == pytest.approx(5 / 6)


def test_without_spacing_distances_are_in_voxels(tmp_path: Path, save: Save, make_organs: Organs) -> None:
    scores = score(tmp_path, save, make_organs(), make_organs(1), Rules(RULES.labels, spacing_known=False))
    assert scores.physical.metrics["2"].HD == 1


def test_regions_and_the_ignore_label(tmp_path: Path, save: Save, make_organs: Organs) -> None:
    rules = Rules(LabelScheme({"both": (1, 2), "spleen": (2,)}, ignore=3, region_order=(1, 2)))
    reference = make_organs()
    reference[:4] = 3
    scores = score(tmp_path, save, reference, make_organs(), rules)
    assert list(scores.physical.metrics) == ["(1, 2)", "2"]
    assert scores.physical.metrics["(1, 2)"].n_ref == np.isin(reference, (1, 2)).sum()
    assert scores.physical.metrics["(1, 2)"].Dice == 1


def test_floating_point_labels_are_accepted_when_whole(tmp_path: Path, save: Save, make_organs: Organs) -> None:
    assert score(tmp_path, save, make_organs(), make_organs().astype(np.float32)).physical.metrics["1"].Dice == 1


@pytest.mark.parametrize("value", [3, 200])
def test_an_undeclared_label_is_refused(tmp_path: Path, save: Save, make_organs: Organs, value: int) -> None:
    prediction = make_organs()
    prediction[0, 0, 0] = value
    with pytest.raises(DataError, match=f"(?s)E-EVAL-03.*{value} in 1 voxels.*0, 1, 2"):
        score(tmp_path, save, make_organs(), prediction)
    with pytest.raises(DataError, match="E-EVAL-03"):
        score(tmp_path, save, prediction, make_organs())


def test_a_predicted_ignore_label_is_refused(tmp_path: Path, save: Save, make_organs: Organs) -> None:
    prediction = make_organs()
    prediction[0, 0, 0] = 3
    rules = Rules(LabelScheme({"liver": (1,), "spleen": (2,)}, ignore=3))
    with pytest.raises(DataError, match="E-EVAL-03"):
        score(tmp_path, save, make_organs(), prediction, rules)


def test_other_grids_are_refused(tmp_path: Path, save: Save, make_organs: Organs) -> None:
    save(tmp_path / "truth.nii.gz", make_organs())
    moved = np.diag([0.8, 0.8, 2.5, 1.0])
    moved[0, 3] = 0.4
    flipped = np.diag([-0.8, 0.8, 2.5, 1.0])
    faults = {
        "shape": (make_organs()[:-1], moved),
        "mm apart": (make_organs(), moved),
        "apart": (make_organs(), flipped),
    }
    for text, (array, affine) in faults.items():
        save(tmp_path / "guess.nii.gz", array, affine)
        with pytest.raises(DataError, match=f"(?s)E-EVAL-02.*{text}"):
            score_case(RULES, (tmp_path / "truth.nii.gz", tmp_path / "guess.nii.gz"))


def test_header_rounding_is_no_mismatch(tmp_path: Path, save: Save, make_organs: Organs) -> None:
    save(tmp_path / "truth.nii.gz", make_organs())
    save(tmp_path / "guess.nii.gz", make_organs(), np.diag([0.80001, 0.8, 2.5, 1.0]))
    assert score_case(RULES, (tmp_path / "truth.nii.gz", tmp_path / "guess.nii.gz")).physical.metrics["1"].Dice == 1


def test_all_faulty_cases_are_named(dataset: Path, save: Save, make_organs: Organs) -> None:
    wrong = make_organs()
    wrong[0] = 9
    save(dataset / "preds" / "a.nii.gz", wrong)
    save(dataset / "preds" / "b.nii.gz", make_organs()[:5])
    truncated = dataset / "preds" / "d.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:-20])
    files, _ = pair_files(dataset / "labelsTs", dataset / "preds", ".nii.gz")
    with pytest.raises(DataError, match="E-EVAL-04 3 of 4 cases") as caught:
        score_files(files, RULES)
    assert all(f"\n    {case}: " in caught.value.found for case in "abd")


def test_all_missing_predictions_are_named(dataset: Path) -> None:
    for case in "ac":
        (dataset / "preds" / f"{case}.nii.gz").unlink()
    with pytest.raises(DataError, match=r"(?s)E-EVAL-01 2 of 4 .*no prediction.*missing: a, c"):
        pair_files(dataset / "labelsTs", dataset / "preds", ".nii.gz")
    assert len(pair_files(dataset / "labelsTs", dataset / "preds", ".nii.gz", ["b", "d"])[0]) == 2


def test_missing_references_are_named(dataset: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)E-EVAL-01 1 of 2 .*no reference.*missing: x"):
        pair_files(dataset / "labelsTs", dataset / "preds", ".nii.gz", ["a", "x"])
    (dataset / "empty").mkdir()
    with pytest.raises(DataError, match="E-EVAL-01 there is no reference"):
        pair_files(dataset / "empty", dataset / "preds", ".nii.gz")


def test_surplus_predictions_are_reported(dataset: Path) -> None:
    (dataset / "labelsTs" / "b.nii.gz").unlink()
    (dataset / "preds" / ".hidden.nii.gz").write_bytes(b"")
    assert pair_files(dataset / "labelsTs", dataset / "preds", ".nii.gz")[1] == ("b.nii.gz",)


def test_worker_processes_give_the_same_scores(dataset: Path) -> None:
    files = pair_files(dataset / "labelsTs", dataset / "preds", ".nii.gz")[0]
    patients = {"a": "p1", "b": "p1"}
    alone = score_files(files, RULES, patients, fold="0")
    assert [score.physical.patient for score in alone] == ["p1", "p1", "c", "d"]
    assert score_files(files, RULES, patients, fold="0", engine=Engine(2)) == alone
