"""The CSV and the text for the terminal."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from samora_pipeline.contracts.scores import Summary
from samora_pipeline.evaluation.summary import score_folder
from samora_pipeline.evaluation.tables import render, score_frame, write_summary


@pytest.fixture
def summary(dataset: Path) -> Summary:
    (dataset / "labelsTs" / "b.nii.gz").unlink()
    return score_folder(dataset / "labelsTs", dataset / "preds")


def test_csv_has_a_row_per_case_and_organ_with_units(dataset: Path, summary: Summary) -> None:
    table = write_summary(summary, dataset / "preds" / "summary.json")
    assert table == dataset / "preds" / "summary.csv"
    frame = pd.read_csv(table).set_index(["case", "organ"])
    assert len(frame) == 6
    assert {"HD95_mm", "HD_mm", "ASSD_mm", "NSD", "Dice", "sam_family_Dice", "sam_family_HD95_voxel"} <= set(frame)
    assert frame.loc[("d", "liver"), "HD_mm"] == pytest.approx(0.8)
    assert frame.loc[("d", "liver"), "sam_family_HD95_voxel"] == 1
    assert frame["Dice"].isna()["c", "spleen"]
    assert frame.loc[("c", "spleen"), "FP"] == 27
    assert frame["Dice"].mean() == pytest.approx(score_frame(summary)["Dice"].mean())


def test_text_shows_both_protocols_with_n_and_flag(summary: Summary) -> None:
    text = render(summary)
    physical, family = text.split("protocol sam_family")
    assert text.startswith("*** PHANTOM ***")
    assert "3 cases of 3 patients" in text
    assert "HD95 mm" in physical
    assert "NSD@2mm" in physical
    assert "HD95 voxel" in family
    spleen = next(line for line in physical.splitlines() if line.startswith("spleen"))
    assert spleen.split()[1] == "2"
    assert spleen.endswith("missed in 1, absent in 1, predicted in 1 of these, 27 voxels")
    liver = next(line for line in family.splitlines() if line.startswith("liver"))
    assert liver.split()[1] == "3"
    assert f"{summary.sam_family.mean['1'].Dice:.3f}" in liver
    assert "not scored, no reference: b.nii.gz" in text


def test_an_undefined_score_is_a_dash(dataset: Path) -> None:
    for case in "abd":
        (dataset / "labelsTs" / f"{case}.nii.gz").unlink()
    text = render(score_folder(dataset / "labelsTs", dataset / "preds"))
    spleen = next(line for line in text.splitlines() if line.startswith("spleen"))
    assert spleen.split()[1:7] == ["0", "-", "-", "-", "-", "-"]
