"""A folder scored with all that lies around it, and summary.json as nnU-Net's users know it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from PIL import Image

from samora_pipeline.contracts.dataset import SamoraJson
from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans
from samora_pipeline.contracts.run import CONFIG_FILE, BaseRecord, PoolRecord, RunConfig
from samora_pipeline.contracts.scores import Convention, Summary
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.evaluation.summary import named_labels, score_folder
from samora_pipeline.evaluation.tables import write_summary

NNUNET = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}


@pytest.fixture
def summary(dataset: Path) -> Summary:
    return score_folder(dataset / "labelsTs", dataset / "preds")


def test_summary_keeps_the_keys_of_nnunet(dataset: Path, summary: Summary) -> None:
    write_summary(summary, dataset / "preds" / "summary.json")
    plain = json.loads((dataset / "preds" / "summary.json").read_text())
    assert set(plain["foreground_mean"]) >= NNUNET
    assert set(plain["mean"]) == {"1", "2"}
    assert set(plain["mean"]["1"]) >= NNUNET
    for row in plain["metric_per_case"]:
        assert row["reference_file"] == row["prediction_file"] == f"{row['case']}.nii.gz"
        assert set(row["metrics"]["2"]) == NNUNET | {"HD95", "HD", "ASSD", "NSD", "HD95_penalised", "further"}
    assert set(plain["sam_family"]["mean"]["1"]) == {"Dice", "HD95", "further"}
    assert len(plain["sam_family"]["metric_per_case"]) == 4
    assert str(dataset) not in json.dumps(plain)


def test_summary_is_read_back_equal(dataset: Path, summary: Summary) -> None:
    write_summary(summary, dataset / "summary.json")
    assert read_json(Summary, dataset / "summary.json") == summary


def test_absent_and_missed_organs_are_counted(summary: Summary) -> None:
    liver, spleen = summary.counts["1"], summary.counts["2"]
    assert (liver.scored, liver.missed, liver.absent) == (4, 0, 0)
    assert (spleen.scored, spleen.missed, spleen.distances, spleen.absent) == (3, 1, 2, 1)
    assert (spleen.false_positive, spleen.false_positive_voxels) == (1, 27)
    rows = {row.case: row.metrics["2"] for row in summary.metric_per_case}
    assert rows["c"].Dice is None
    assert (rows["d"].Dice, rows["d"].HD95) == (0, None)
    expected = np.mean([value.Dice for value in rows.values() if value.Dice is not None])
    assert summary.mean["2"].Dice == pytest.approx(expected)
    # a exact, b shifted, c predicted though absent, d missed
    family = {row.case: row.metrics["2"] for row in summary.sam_family.metric_per_case}
    assert [family[case].Dice for case in "acd"] == [1, 1, 0]
    assert summary.sam_family.mean["2"].Dice == pytest.approx(np.mean([one.Dice for one in family.values()]))


def test_foreground_mean_is_the_mean_of_the_labels(summary: Summary) -> None:
    for name in ("Dice", "HD95", "NSD", "TP"):
        means = [getattr(mean, name) for mean in summary.mean.values()]
        assert getattr(summary.foreground_mean, name) == pytest.approx(np.mean(means))


def test_patients_flag_and_unit_come_from_the_dataset(dataset: Path, summary: Summary) -> None:
    assert (summary.n, summary.bootstrap.n) == (4, 3)
    assert summary.warnings == ("PHANTOM",)
    assert (summary.distance_unit, summary.nsd_tolerance) == ("mm", 2.0)
    write_json(SamoraJson(spacing_known=False), dataset / "samora.json")
    unknown = score_folder(dataset / "labelsTs", dataset / "preds", tolerance=1.0)
    assert (unknown.distance_unit, unknown.warnings, unknown.nsd_tolerance) == ("voxel", (), 1.0)
    interval = unknown.intervals.mean["1"]["Dice"]
    if interval is None or unknown.mean["1"].Dice is None:
        pytest.fail("four patients have a liver")
    assert interval.low <= unknown.mean["1"].Dice <= interval.high


def test_flags_of_the_predictions_are_carried_on(dataset: Path) -> None:
    for share, warning in (("1_of_2", "TRANSDUCTIVE"), ("2_of_2", "PHANTOM")):
        (dataset / "preds" / f"run.{share}.json").write_text(json.dumps({"warnings": [warning], "other": 1}))
    assert score_folder(dataset / "labelsTs", dataset / "preds").warnings == ("PHANTOM", "TRANSDUCTIVE")


def test_another_dataset_json_can_be_named(dataset: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.json"
    plain = json.loads((dataset / "dataset.json").read_text())
    plain["labels"] = {"background": 0, "hepar": 1, "lien": 2}
    elsewhere.write_text(json.dumps(plain))
    scored = score_folder(dataset / "labelsTs", dataset / "preds", elsewhere)
    assert scored.labels == {"1": "hepar", "2": "lien"}


def test_a_missing_folder_is_a_usage_error(dataset: Path) -> None:
    with pytest.raises(UsageError, match="E-EVAL-08"):
        score_folder(dataset / "labelsTs", dataset / "nowhere")


def test_without_any_description_each_value_is_a_label(dataset: Path, summary: Summary) -> None:
    (dataset / "dataset.json").unlink()
    scored = score_folder(dataset / "labelsTs", dataset / "preds")
    assert scored.labels == {"1": "1", "2": "2"}
    assert scored.mean == summary.mean


def test_a_value_of_the_predictions_alone_is_a_label_too(tmp_path: Path, save: Callable[..., None]) -> None:
    truth = np.zeros((8, 8, 4), np.uint8)
    truth[2:5, 2:5] = 7
    guess = truth.copy()
    guess[6:, 6:] = 3
    save(tmp_path / "labels" / "a.nii.gz", truth)
    save(tmp_path / "preds" / "a.nii.gz", guess)
    scored = score_folder(tmp_path / "labels", tmp_path / "preds")
    assert list(scored.labels.values()) == ["3", "7"]
    assert (scored.mean["7"].Dice, scored.counts["3"].absent) == (1.0, 1)


def test_nothing_labelled_and_nothing_described_is_refused(tmp_path: Path, save: Callable[..., None]) -> None:
    for folder in ("labels", "preds"):
        save(tmp_path / folder / "a.nii.gz", np.zeros((8, 8, 4), np.uint8))
    with pytest.raises(DataError, match=r"(?s)E-EVAL-07 .*--labels liver=1"):
        score_folder(tmp_path / "labels", tmp_path / "preds")


def test_a_subset_is_scored_alone(dataset: Path, summary: Summary) -> None:
    scored = score_folder(dataset / "labelsTs", dataset / "preds", subset=("d", "b"))
    assert [row.case for row in scored.metric_per_case] == ["b", "d"]
    assert scored.metric_per_case[1] == next(row for row in summary.metric_per_case if row.case == "d")
    assert scored.unscored_predictions == ()
    # What is missing elsewhere does not matter.
    (dataset / "preds" / "a.nii.gz").unlink()
    assert score_folder(dataset / "labelsTs", dataset / "preds", subset=("b",)).n == 1
    with pytest.raises(UsageError, match="E-EVAL-09") as caught:
        score_folder(dataset / "labelsTs", dataset / "preds", subset=("b", "e"))
    assert (caught.value.found, caught.value.expected) == ("e", "known: a, b, c, d")


@pytest.mark.parametrize("place", ["labelsTs", "preds"])
def test_the_description_may_lie_with_the_files(dataset: Path, summary: Summary, place: str) -> None:
    (dataset / "dataset.json").rename(dataset / place / "dataset.json")
    assert score_folder(dataset / "labelsTs", dataset / "preds").mean == summary.mean


def test_labels_can_be_given_in_words(dataset: Path, summary: Summary) -> None:
    (dataset / "dataset.json").unlink()
    scored = score_folder(dataset / "labelsTs", dataset / "preds", named_labels(["liver=1", "spleen=2", "both=1+2"]))
    assert scored.labels == {"1": "liver", "2": "spleen", "(1, 2)": "both"}
    assert scored.mean["1"] == summary.mean["1"]
    assert scored.warnings == ("PHANTOM",)
    assert named_labels(["liver=1", "both=1+2", "ignore=9"]).ignore == 9
    for wrong in ("liver", "liver=", "=1", "liver=one"):
        with pytest.raises(UsageError, match="E-ARG-17"):
            named_labels([wrong])
    with pytest.raises(DataError, match="E-LABEL-01"):
        named_labels(["liver=1", "spleen=1"])


def test_masks_of_another_format_are_matched_by_case(dataset: Path, summary: Summary) -> None:
    for path in (dataset / "preds").glob("*.nii.gz"):
        image = SimpleITK.ReadImage(str(path))
        SimpleITK.WriteImage(image, str(path.with_name(path.name.replace(".nii.gz", ".nrrd"))), True)
        path.unlink()
    scored = score_folder(dataset / "labelsTs", dataset / "preds")
    assert scored.mean == summary.mean
    assert scored.metric_per_case[0].prediction_file == "a.nrrd"
    (dataset / "preds" / "a.mha").write_bytes(b"")
    with pytest.raises(DataError, match=r"(?s)E-EVAL-06 .*a\.mha, a\.nrrd"):
        score_folder(dataset / "labelsTs", dataset / "preds")


@pytest.mark.parametrize("convention", ["medpy", "monai", "deepmind"])
def test_the_convention_is_stored_with_the_scores(dataset: Path, summary: Summary, convention: Convention) -> None:
    scored = score_folder(dataset / "labelsTs", dataset / "preds", convention=convention)
    assert scored.convention == convention
    assert scored.mean["1"].Dice == summary.mean["1"].Dice
    # The protocol of the tables of the paper has one convention only.
    assert scored.sam_family == summary.sam_family
    assert (scored.mean["2"].NSD == summary.mean["2"].NSD) == (convention != "deepmind")


def fold_config(scored: tuple[str, ...]) -> RunConfig:
    plans = Plans(
        dataset="Dataset090_Phantom",
        channel_names=("CT",),
        slice_axis=Planned("axial", ""),
        in_plane=Planned("resize", ""),
        in_plane_spacing=Planned(None, ""),
        slice_size=Planned(64, ""),
        input_size=Planned(64, ""),
        channels=Planned("repeat", ""),
        intensity=Planned((IntensityRule("window", -125.0, 275.0),), ""),
        mirror=Planned(True, ""),
        fingerprint_digest="0",
    )
    return RunConfig(
        dataset=plans.dataset,
        trainer="SAMoraTrainer",
        split="full",
        fold="1",
        name="default",
        recipe="none",
        seed=0,
        model=ModelSpec("samora_tiny", 64, 3, lora_rank=4),
        base=BaseRecord("bootstrap", "0", "bootstrap"),
        plans=plans,
        labels=LabelScheme({"liver": (1,), "spleen": (2,)}),
        file_ending=".nii.gz",
        selection=Selection("full", "1", "cases", 0, False, ("c",)),
        scored=scored,
        pool=PoolRecord({}, scored),
        warnings=("PHANTOM", "BOOTSTRAPPED BASE"),
    )


def test_validation_of_a_fold_scores_its_own_cases(
    dataset: Path, save: Callable[..., None], make_organs: Callable[..., Any]
) -> None:
    fold = dataset / "RUN" / "fold_1"
    for case in "ab":
        save(fold / "validation" / f"{case}.nii.gz", make_organs())
    write_json(fold_config(("a", "b")), fold / CONFIG_FILE)
    scored = score_folder(dataset / "labelsTs", fold / "validation")
    assert [row.case for row in scored.metric_per_case] == ["a", "b"]
    assert scored.folds == ("1",)
    assert scored.warnings == ("PHANTOM", "BOOTSTRAPPED BASE")
    (fold / "validation" / "b.nii.gz").unlink()
    with pytest.raises(DataError, match=r"1 of 2 cases have no prediction"):
        score_folder(dataset / "labelsTs", fold / "validation")


def test_distances_come_in_mm_whatever_unit_a_header_counts_in(tmp_path: Path) -> None:
    for folder, shift in (("labels", 0), ("preds", 3)):
        image = nibabel.Nifti1Image(np.roll(box(), shift, 0), np.diag([10.0, 10.0, 20.0, 1.0]))
        image.header.set_xyzt_units("micron")
        (tmp_path / folder).mkdir()
        nibabel.save(image, tmp_path / folder / "a.nii.gz")
    scored = score_folder(tmp_path / "labels", tmp_path / "preds")
    assert scored.distance_unit == "mm"
    assert pytest.approx(0.03, rel=1e-5) == scored.mean["1"].HD95


def box() -> np.ndarray:
    drawn = np.zeros((30, 20, 12), np.uint8)
    drawn[8:16, 5:12, 3:9] = 1
    return drawn


def test_pictures_state_no_spacing_so_that_distances_come_in_voxels(tmp_path: Path) -> None:
    for folder, shift in (("labels", 0), ("preds", 2)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.roll(box()[:, :, 5], shift, 0)).save(tmp_path / folder / "a.png")
    scored = score_folder(tmp_path / "labels", tmp_path / "preds")
    assert (scored.distance_unit, scored.mean["1"].HD) == ("voxel", 2.0)


def test_a_prediction_in_another_order_of_axes_is_scored_where_it_lies(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    affine = np.diag([0.8, 0.9, 2.5, 1.0])
    save(tmp_path / "labels" / "a.nii.gz", box(), affine)
    (tmp_path / "preds").mkdir()
    image = nibabel.Nifti1Image(box(), affine).as_reoriented(np.array([[1, -1], [2, 1], [0, -1]]))
    nibabel.save(image, tmp_path / "preds" / "a.nii.gz")
    assert score_folder(tmp_path / "labels", tmp_path / "preds").mean["1"].Dice == 1


def test_references_in_folders_are_those_of_predictions_with_the_folders_in_their_names(
    tmp_path: Path, save: Callable[..., None]
) -> None:
    save(tmp_path / "labels" / "p 1" / "s" / "a.nii.gz", box())
    save(tmp_path / "preds" / "p_1_s_a.nii.gz", box())
    scored = score_folder(tmp_path / "labels", tmp_path / "preds")
    assert [(row.case, row.reference_file) for row in scored.metric_per_case] == [("p_1_s_a", "a.nii.gz")]


def test_exported_segmentations_are_scored_by_the_name_of_their_case(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "labels" / "a.nii.gz", box())
    (tmp_path / "preds").mkdir()
    image = SimpleITK.ReadImage(str(tmp_path / "labels" / "a.nii.gz"))
    SimpleITK.WriteImage(image, str(tmp_path / "preds" / "a.seg.nrrd"))
    assert score_folder(tmp_path / "labels", tmp_path / "preds").mean["1"].Dice == 1
