from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from samora_pipeline.errors import DataError
from samora_pipeline.reporting import report_cli
from samora_pipeline.reporting.report import LARGEST
from tests.fake_run import DATASET, SHIFTS, write_reported_run
from tests.reporting.read_page import ReadPage

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one dataset, the second better in every case but one."""
    root = tmp_path_factory.mktemp("compared")
    write_reported_run(root, run="SAMedTrainer__10pct__a", shifts={**SHIFTS, "exact": 2})
    write_reported_run(root, run="SAMoraTrainer__10pct__b")
    return root


def compare(root: Path, *runs: str) -> ReadPage:
    page = root / "page.html"
    assert report_cli.main([*(f"{DATASET}/{run}" for run in runs), "--root", str(root), "-o", str(page)]) == 0
    return ReadPage(page.read_text())


def test_two_runs_side_by_side(root: Path) -> None:
    page = compare(root, "SAMedTrainer__10pct__a", "SAMoraTrainer__10pct__b")
    rows = {row[0].split(" ")[0]: row[2:] for row in page.tables["cases"][1:]}
    assert rows["far"][0] == rows["far"][1]
    assert rows["far"][2] == "0.000"
    assert float(rows["exact"][2]) == pytest.approx(1 - float(rows["exact"][0]), abs=2e-3)
    panels = [own for own in page.all("div") if own.get("class") == "panels three"]
    assert len(panels) == 3
    assert page.tables["lifts"][0] == ["organ", "slice", "lift A", "lift B"]
    assert "A: SAMedTrainer__10pct__a; B: SAMoraTrainer__10pct__b" in page.text
    assert {own.get("id") for own in page.all("figure")} >= {"forest-Dice", "relevance", "case-worst"}
    dice = page.tables["paired_physical_Dice"]
    assert dice[0][0] == "organ"
    assert [row[0] for row in dice[1:]] == ["mean", "liver", "spleen"]
    assert "PHANTOM" in page.text


def test_parameters_say_what_learned_from_labels(root: Path) -> None:
    page = compare(root, "SAMedTrainer__10pct__a", "SAMoraTrainer__10pct__b")
    for table in ("account-0", "account-1"):
        learned = {row[0]: row[2] for row in page.tables[table][1:]}
        assert learned["base"] == "0"
        assert int(learned["decoder"].replace(",", "")) > 0


def test_four_runs_side_by_side(root: Path) -> None:
    write_reported_run(root, run="HSAMTrainer__10pct__e", shifts={**SHIFTS, "middle": 2})
    write_reported_run(root, run="SAMoraTrainer__10pct__f", shifts={**SHIFTS, "middle": 1})
    runs = ("SAMedTrainer__10pct__a", "SAMoraTrainer__10pct__b", "HSAMTrainer__10pct__e", "SAMoraTrainer__10pct__f")
    page = compare(root, *runs)
    header = page.tables["cases"][0]
    assert header[2:] == [*(f"mean Dice {letter}" for letter in "ABCD"), *(f"{letter} minus A" for letter in "BCD")]
    for row in page.tables["cases"][1:]:
        dice = [float(text) for text in row[2:6]]
        assert [float(text) for text in row[6:]] == pytest.approx([value - dice[0] for value in dice[1:]], abs=2e-3)
    dice_rows = page.tables["paired_physical_Dice"][1:]
    assert [row[:2] for row in dice_rows[:3]] == [[name, "mean"] for name in runs[1:]]
    assert all(f"{letter}: mean Dice differs by" in page.text for letter in "BCD")
    panels = [own for own in page.all("div") if own.get("class") == "panels five"]
    assert len(panels) == 3
    assert page.tables["lifts"][0] == ["organ", "slice", *(f"lift {letter}" for letter in "ABCD")]
    assert len((root / "page.html").read_bytes()) < LARGEST


def test_a_network_that_cannot_be_asked_costs_its_own_maps_only(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "moved", ignore=shutil.ignore_patterns("page.html"))
    results = tmp_path / "moved" / "results" / DATASET
    (results / "SAMedTrainer__10pct__a" / "base.safetensors").unlink()
    page = compare(tmp_path / "moved", "SAMedTrainer__10pct__a", "SAMoraTrainer__10pct__b")
    assert page.tables["lifts"][0] == ["organ", "slice", "lift B"]
    assert "A is left out: the base encoder" in page.text
    (results / "SAMoraTrainer__10pct__b" / "base.safetensors").unlink()
    page = compare(tmp_path / "moved", "SAMedTrainer__10pct__a", "SAMoraTrainer__10pct__b")
    assert "lifts" not in page.tables
    assert "E-WEIGHT-05" in page.text


def test_two_equal_runs_differ_by_nothing(root: Path) -> None:
    shutil.copytree(
        root / "results" / DATASET / "SAMoraTrainer__10pct__b", root / "results" / DATASET / "SAMoraTrainer__10pct__c"
    )
    page = compare(root, "SAMoraTrainer__10pct__b", "SAMoraTrainer__10pct__c")
    assert {row[-1] for row in page.tables["cases"][1:]} == {"0.000"}
    assert "Mean Dice differs by 0.000" in page.text
    assert "The configurations are equal." in page.text


def test_runs_scored_on_other_cases_are_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_reported_run(root, run="SAMedTrainer__10pct__d", shifts={"other": 1})
    runs = [f"{DATASET}/SAMedTrainer__10pct__{name}" for name in "ad"]
    assert report_cli.main([*runs, "--root", str(root), "-o", str(tmp_path / "page.html")]) == DataError.exit_code
    assert "E-CMP-03" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("words", [["a", "b", "c", "d", "e"], ["a", "-o", "page.pdf"]])
def test_wrong_arguments_are_refused_before_anything_is_read(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert report_cli.main(words) == 2
    assert "E-ARG-21" in capsys.readouterr().err


def test_the_report_of_one_run_goes_into_its_folder(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report_cli.main([f"{DATASET}/SAMedTrainer__10pct__a", "--root", str(root)]) == 0
    written = root / "results" / DATASET / "SAMedTrainer__10pct__a" / "report.html"
    assert written.is_file()
    assert str(written) in capsys.readouterr().out
