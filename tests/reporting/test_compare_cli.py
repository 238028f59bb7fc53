"""samora_compare: what it prints and writes, its exit codes, and a help text that loads nothing heavy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from samora_pipeline.contracts.timing import StageTiming, Timing
from samora_pipeline.reporting.compare_cli import main
from tests.fake_run import random_dice, write_scored_run


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    """SAMed and SAMora on twelve patients, the second flagged TRANSDUCTIVE, both PHANTOM."""
    results = tmp_path / "results"
    first = write_scored_run(
        *(results, random_dice(0)), trainer="SAMedTrainer", recipe="none", warnings=("PHANTOM",), timing=lasting(120)
    )
    flags = ("PHANTOM", "TRANSDUCTIVE")
    second = write_scored_run(results, random_dice(1, shift=0.03), warnings=flags, timing=lasting(324))
    return str(first), str(second)


def lasting(steps: int | None, epochs: int = 20) -> Timing:
    return Timing(stages={"finetune": StageTiming(1.0, epochs=epochs, steps=steps)})


def test_the_answer_comes_first_and_names_unequal_budgets(
    runs: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*runs]) == 0
    first, blank, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith("SAMoraTrainer__10pct__default is better than SAMedTrainer__10pct__default: Dice 0.")
    assert first.endswith("p < 0.001, n = 12 patients; budgets differ: 324 against 120 steps")
    assert blank == ""
    table = [line for line in rest if line.startswith("| SAMora")]
    assert {tuple(cell.strip() for cell in line.split("|")[2:4]) for line in table} >= {
        *(("physical", "Dice"), ("sam_family", "Dice"), ("sam_family", "HD95 voxel")),
    }
    assert "organ" not in rest[4]
    assert rest[-1].startswith("--full shows each organ; ")


def test_few_patients_give_no_verdict_and_old_records_their_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    first = write_scored_run(results, random_dice(0, 4), trainer="SAMedTrainer", timing=lasting(None, 160))
    second = write_scored_run(results, random_dice(1, 4, shift=0.2), timing=lasting(120))
    third = write_scored_run(results, random_dice(2, 4), name="same", timing=lasting(None, 160))
    assert main([str(first), str(second), str(third)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(
        "SAMoraTrainer__10pct__default is not distinguishable from SAMedTrainer__10pct__default: "
    )
    assert ", n = 4 patients cannot support a ranking; budgets differ: 120 steps against 160 epochs" in said[0]
    assert said[1].startswith("SAMoraTrainer__10pct__same is not distinguishable ")
    assert "budgets" not in said[1]


def test_both_protocols_are_printed_with_flags_and_n(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*runs, "--full"]) == 0
    out = capsys.readouterr().out
    assert "- SAMoraTrainer__10pct__default: budgets differ: 324 against 120 steps of fine-tuning" in out
    assert "protocol physical: against SAMedTrainer__10pct__default" in out
    assert "HD95 voxel, protocol sam_family" in out
    flagged = out.count("> **PHANTOM | TRANSDUCTIVE (SAMoraTrainer__10pct__default)**")
    assert flagged == out.count("\n**") > 5
    row = next(line for line in out.splitlines() if line.startswith("| SAMoraTrainer__10pct__default | mean"))
    assert row.split("|")[3].strip() == "12"


def test_a_folder_receives_tables_numbers_and_plots(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert main([*runs, "--baseline", runs[1], "--protocol", "sam_family", "-o", str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "comparison.md",
        "paired.csv",
        *(f"forest_sam_family_{metric}.{kind}" for metric in ("Dice", "HD95") for kind in ("png", "svg")),
    }
    frame = pd.read_csv(folder / "paired.csv")
    assert set(frame["baseline"]) == {"SAMoraTrainer__10pct__default"}
    assert set(frame["warnings"]) == {"PHANTOM | TRANSDUCTIVE (SAMoraTrainer__10pct__default)"}
    dice = frame[(frame["metric"] == "Dice") & (frame["organ"] == "mean")].iloc[0]
    assert dice["difference"] == pytest.approx(dice["run_mean"] - dice["baseline_mean"])
    assert dice["t_low"] < dice["difference"] < dice["t_high"]
    assert "PHANTOM" in (folder / "comparison.md").read_text()
    assert str(tmp_path) not in (folder / "comparison.md").read_text() + (folder / "paired.csv").read_text()


def test_equal_runs_differ_by_zero_and_moving_one_changes_nothing(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "elsewhere" / "moved"
    shutil.copytree(runs[1], copy)
    family = ["--protocol", "sam_family", "-o"]
    assert main([runs[1], str(copy), *family, str(tmp_path / "out")]) == 0
    frame = pd.read_csv(tmp_path / "out" / "paired.csv")
    assert set(frame["run"]) == {"moved"}
    assert (frame["difference"] == 0).all()
    assert frame["p_t"].isna().all()
    assert main([runs[0], runs[1], *family, str(tmp_path / "before")]) == 0
    shutil.move(runs[1], tmp_path / "results2" / Path(runs[1]).name)
    moved = str(tmp_path / "results2" / Path(runs[1]).name)
    assert main([runs[0], moved, *family, str(tmp_path / "after")]) == 0
    for name in ("paired.csv", "comparison.md", "forest_sam_family_Dice.png"):
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes()


@pytest.mark.parametrize(("form", "mark"), [("md", "| Method"), ("latex", r"\begin{tabular}"), ("csv", "Method,Run")])
def test_a_table_of_the_paper_in_each_format(
    runs: tuple[str, str], form: str, mark: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    arguments = ["--table", "14", "--protocol", "sam_family", "--format", form, "-o", str(folder)]
    assert main([*runs, *arguments]) == 0
    out = capsys.readouterr().out
    assert mark in out
    assert "PHANTOM" in out
    assert "reported" not in out
    assert len(list(folder.iterdir())) == (2 if form == "csv" else 1)


def test_runs_under_the_root_are_found_by_name(runs: tuple[str, str], tmp_path: Path) -> None:
    names = [f"Dataset001_Synapse/{Path(run).name}" for run in runs]
    assert main([*names, "--root", str(tmp_path)]) == 0


def test_faults_have_their_exit_codes(
    runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_scored_run(tmp_path / "results", random_dice(2), split="full", name="other")
    for arguments, code, text in (
        ([runs[0]], 2, "E-CMP-05"),
        ([*runs, "--table", "7"], 2, "E-CMP-04"),
        ([runs[0], "nowhere"], 5, "E-CMP-01"),
        ([runs[0], str(other)], 4, "E-CMP-03"),
    ):
        assert main(arguments) == code
        assert text in capsys.readouterr().err
    assert main([runs[0], str(other), "--table", "13"]) == 0


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom samora_pipeline.reporting.compare_cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'nibabel', 'SimpleITK', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--baseline" in done.stdout


def test_the_papers_tables_need_no_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--table", "14", "--reported"]) == 0
    out = capsys.readouterr().out
    assert out.count("not run; the paper's values") == 13
    assert "**Runs**" not in out
    assert main(["--table", "2", "--plan"]) == 0
    assert "samora_train LA HSAMoraTrainer 5pct_slices --unlabeled paper" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ([], "E-CMP-05"),
        (["--reported"], "E-CMP-09"),
        (["--plan"], "E-CMP-09"),
        (["--table", "1", "--reported", "--protocol", "physical"], "E-CMP-09"),
        (["--table", "11", "--plan"], "E-CMP-10"),
        (["--table", "1"], "E-CMP-05"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    words: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(code)
