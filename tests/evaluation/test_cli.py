"""samora_evaluate: what it writes, its exit codes, and a help text that loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from samora_pipeline.contracts.failures import Failures
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.evaluation.cli import main


def test_scores_are_printed_and_written_beside_the_predictions(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-g", str(dataset / "labelsTs"), "-p", str(dataset / "preds")]) == 0
    assert "protocol physical" in capsys.readouterr().out
    assert read_json(Summary, dataset / "preds" / "summary.json").n == 4
    assert (dataset / "preds" / "summary.csv").is_file()


def test_output_labels_and_tolerance_can_be_chosen(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "scores.json"
    arguments = ["-g", str(dataset / "labelsTs"), "-p", str(dataset / "preds"), "-o", str(output)]
    assert main([*arguments, "--labels", str(dataset / "dataset.json"), "--tolerance", "3"]) == 0
    assert read_json(Summary, output).nsd_tolerance == 3
    assert output.with_suffix(".csv").is_file()
    assert not (dataset / "preds" / "summary.json").exists()


def test_a_subset_has_a_summary_of_its_own(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["-g", str(dataset / "labelsTs"), "-p", str(dataset / "preds")]
    assert main([*arguments, "--subset", "a, c"]) == 0
    assert "2 cases" in capsys.readouterr().out
    assert read_json(Summary, dataset / "preds" / "summary_subset.json").n == 2
    assert not (dataset / "preds" / "summary.json").exists()
    assert main([*arguments, "--subset", ","]) == 2
    assert "E-ARG-22" in capsys.readouterr().err


def test_folds_of_a_run_are_found_by_a_part_of_its_name(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "results" / "Dataset090_Phantom" / "SAMoraTrainer__10pct__longer"
    for fold in "01":
        output = run / f"fold_{fold}" / "summary.json"
        scored = ["-g", str(dataset / "labelsTs"), "-p", str(dataset / "preds"), "--subset", "ab"[int(fold)]]
        assert main([*scored, "-o", str(output)]) == 0
        (run / f"fold_{fold}" / "config.json").touch()
    assert main(["--root", str(tmp_path), "--folds", "longer"]) == 0
    assert read_json(Summary, run / "summary.json").n == 2
    assert main(["--root", str(tmp_path), "--folds", "shorter"]) == 4


def test_folds_of_a_run_are_summed_up(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "RUN"
    for fold, case in enumerate("abcd"):
        kept = tmp_path / "labels" / case
        kept.mkdir(parents=True)
        (kept / f"{case}.nii.gz").write_bytes((dataset / "labelsTs" / f"{case}.nii.gz").read_bytes())
        output = run / f"fold_{fold}" / "summary.json"
        arguments = ["-g", str(kept), "-p", str(dataset / "preds"), "-o", str(output)]
        assert main([*arguments, "--labels", str(dataset / "dataset.json")]) == 0
    assert main(["--folds", str(run)]) == 0
    assert read_json(Summary, run / "summary.json").folds == ("0", "1", "2", "3")
    assert (run / "summary.csv").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-g", "labels"],
        ["-g", "labels", "-p", "preds", "--folds", "run"],
        ["-g", "labels", "-p", "preds", "-o", "scores.txt"],
        ["-g", "labels", "-p", "preds", "--tolerance", "-1"],
    ],
)
def test_a_wrong_command_line_is_a_usage_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "E-ARG-05" in capsys.readouterr().err


def test_no_process_at_all_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-g", "labels", "-p", "preds", "-np", "0"]) == 2
    assert "E-ARG-01" in capsys.readouterr().err


def test_a_folder_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-g", "labels", "-p", "nowhere"]) == 2
    assert "E-EVAL-08 there is no folder labels" in capsys.readouterr().err


def test_faulty_cases_are_left_out_and_named(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = dataset / "preds" / "b.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:40])
    arguments = ["-g", str(dataset / "labelsTs"), "-p", str(dataset / "preds")]
    assert main(arguments) == 3
    assert "failed: b: E-IMG-02" in capsys.readouterr().out
    summary = read_json(Summary, dataset / "preds" / "summary.json")
    assert [row.case for row in summary.metric_per_case] == ["a", "c", "d"]
    assert "NOT SCORED: b" in summary.warnings
    failures = dataset / "preds" / "failures.evaluation.json"
    assert {name: one.code for name, one in read_json(Failures, failures).cases.items()} == {"b": "E-IMG-02"}
    broken.write_bytes(whole)
    assert main(arguments) == 0
    assert not failures.exists()


def test_where_no_case_can_be_scored_nothing_is_written(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (dataset / "preds").glob("*.nii.gz"):
        path.write_bytes(b"")
    assert main(["-g", str(dataset / "labelsTs"), "-p", str(dataset / "preds")]) == 4
    assert "E-EVAL-04 4 of 4 cases" in capsys.readouterr().err
    assert not list((dataset / "preds").glob("summary*"))


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom samora_pipeline.evaluation.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'nibabel', 'SimpleITK', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--folds" in done.stdout
