import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from planners.cli import _next_command, main
from samora_pipeline.contracts.dataset import BudgetUnit, PublishedBudget
from samora_pipeline.contracts.splits import Fold, Splits
from samora_pipeline.paths import DatasetFolder
from tests.raw_data import make_raw_dataset

COMMAND = [sys.executable, "-c", "import sys; from planners.cli import main; sys.exit(main(sys.argv[1:]))"]


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom planners.cli import build_parser\nbuild_parser().format_help()\n"
        "print([m for m in ('torch', 'numpy', 'nibabel', 'SimpleITK', 'scipy', 'blosc2', 'tqdm') if m in sys.modules])"
    )
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert time.perf_counter() - start < 2.0
    assert result.stdout.strip() == "[]"
    shown = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    for option in ("-d", "-np", "--verify-only", "--explain", "--set", "--skip-invalid", "--root", "--planner"):
        assert option in shown


def test_without_d_everything_missing_or_stale_is_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = tmp_path / "raw"
    make_raw_dataset(raw / "Dataset007_Boxes", cases=3)
    assert main(["--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert f"data root: {tmp_path} (--root)" in out
    # Three labelled cases: a tenth of them is none.
    assert "next: samora_train 7 SAMoraTrainer full" in out
    make_raw_dataset(raw / "Dataset008_More", cases=3, channels=("T1",))
    assert main(["--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Dataset007_Boxes: up to date" in out
    assert "next: samora_train 8" in out
    assert main(["--root", str(tmp_path)]) == 0
    assert "nothing to do" in capsys.readouterr().out
    description = raw / "Dataset007_Boxes/dataset.json"
    description.write_text(description.read_text().replace("lesion", "tumour"))
    (tmp_path / "preprocessed/Dataset008_More/slices/case_01.json").unlink()
    assert main(["--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "up to date" not in out
    assert "1 cases written, 2 already there" in out


def test_scans_without_labels_are_offered_to_the_training_of_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_raw_dataset(tmp_path / "raw/Dataset009_Pool", cases=0, unlabelled=2)
    for _ in range(2):
        assert main(["--root", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        assert "next: samora_train DATASET SAMoraTrainer 10pct --unlabeled 9  with a DATASET that has labels" in out
    assert "nothing to do" in out


def test_one_faulty_dataset_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_raw_dataset(tmp_path / "raw/Dataset007_Boxes", cases=2, channels=("PET",))
    make_raw_dataset(tmp_path / "raw/Dataset008_More", cases=2)
    assert main(["--root", str(tmp_path)]) == 4
    captured = capsys.readouterr()
    assert "Dataset007_Boxes: E-CHAN-03" in captured.err
    assert (tmp_path / "preprocessed/Dataset008_More/plans.json").is_file()
    assert not (tmp_path / "preprocessed/Dataset007_Boxes").exists()


def test_what_the_system_refuses_for_one_dataset_does_not_stop_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_raw_dataset(tmp_path / "raw/Dataset007_Boxes", cases=2)
    make_raw_dataset(tmp_path / "raw/Dataset008_More", cases=2)
    (tmp_path / "preprocessed").mkdir()
    (tmp_path / "preprocessed/Dataset007_Boxes").touch()  # a file where a folder has to be made
    assert main(["--root", str(tmp_path)]) == 6
    assert "Dataset007_Boxes: E-DISK-01" in capsys.readouterr().err
    assert (tmp_path / "preprocessed/Dataset008_More/plans.json").is_file()


def test_explain_prints_every_value_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_raw_dataset(tmp_path / "raw/Dataset007_Boxes", cases=2)
    assert main(["--root", str(tmp_path), "-d", "Boxes", "--explain", "--set", "input_size=64"]) == 0
    out = capsys.readouterr().out
    plans = json.loads((tmp_path / "preprocessed/Dataset007_Boxes/plans.json").read_text())
    planned = {key: value for key, value in plans.items() if isinstance(value, dict) and "why" in value}
    assert len(planned) == 8
    for key, value in planned.items():
        assert key in out
        assert f"because: {value['why']}" in out
    assert "set by --set input_size=64" in out


def test_settings_are_neither_ignored_nor_lost_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_raw_dataset(tmp_path / "raw/Dataset007_Boxes", cases=2)
    plans = tmp_path / "preprocessed/Dataset007_Boxes/plans.json"
    assert main(["--root", str(tmp_path)]) == 0
    assert main(["--root", str(tmp_path), "--set", "input_size=64"]) == 0
    assert json.loads(plans.read_text())["input_size"]["value"] == 64
    assert json.loads(plans.read_text())["overrides"] == {"input_size": "64"}
    assert "again" not in capsys.readouterr().out
    assert main(["--root", str(tmp_path), "-d", "7"]) == 0
    assert json.loads(plans.read_text())["input_size"]["value"] is None
    note = "input_size is decided from the data again: the plan before had it set by --set input_size=64"
    assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("unit", "cases", "split"),
    [("cases", 19, "full"), ("cases", 20, "10pct"), ("slices", 9, "full"), ("slices", 10, "10pct")],
)
def test_the_next_command_fits_the_number_of_labels(unit: BudgetUnit, cases: int, split: str) -> None:
    fold = Fold(tuple(f"case_{number:02d}" for number in range(cases)), ("other",))
    splits = Splits("Dataset007_Boxes", 0, unit, {"0": fold})
    folder = DatasetFolder(7, "Boxes", Path("raw"))
    assert _next_command(folder, splits) == f"samora_train 7 SAMoraTrainer {split}"
    budget = PublishedBudget(unit, ("case_01",))
    published = replace(splits, folds={"official": fold}, published={"3cases": budget})
    assert _next_command(folder, published) == "samora_train 7 SAMoraTrainer 3cases"


def test_the_published_budget_is_the_next_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = {
        "published_split": {"train": ["case_00", "case_01"], "test": ["test_00"]},
        "budgets": {"5pct": {"unit": "cases", "cases": ["case_01"]}},
    }
    make_raw_dataset(tmp_path / "raw/Dataset007_Boxes", cases=4, test=1, samora=ours)
    assert main(["--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "next: samora_train 7 SAMoraTrainer 5pct" in out
    assert "folds      official, 0, 1, 2, 3, all" in out


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["-d", "Boxs"], 4, "E-NAME-02"),
        (["-np", "0"], 2, "E-ARG-01"),
        (["--set", "imput_size=5"], 2, "did you mean input_size"),
        (["--set", "input_size"], 2, "E-SET-02"),
        (["--set", "input_size=64", "--set", "input_size=32"], 2, "E-SET-02"),
        (["--dask", "tcp://nowhere:1", "-np", "2"], 2, "E-ARG-09"),
    ],
)
def test_wrong_arguments(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, text: str
) -> None:
    make_raw_dataset(tmp_path / "raw/Dataset007_Boxes", cases=2)
    assert main(["--root", str(tmp_path), *arguments]) == code
    assert text in capsys.readouterr().err
    assert not (tmp_path / "preprocessed").exists()


def test_no_dataset_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(tmp_path)]) == 4
    assert "E-DATA-03" in capsys.readouterr().err


def test_unknown_options_are_refused() -> None:
    result = subprocess.run([*COMMAND, "--verify"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
