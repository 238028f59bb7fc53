"""One rule for one bad file, whatever command walks over it: its case alone is skipped and named; exit code 3."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dataset_conversion.cli import main as convert
from planners.cli import main as plan
from samora_pipeline.contracts.failures import Failures, printable
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.evaluation.cli import main as evaluate
from samora_pipeline.handover.cli import main as export
from samora_pipeline.inference.cli import main as predict
from samora_pipeline.reporting.report_cli import main as report
from tests.fake_run import write_fake_run, write_image, write_reported_run
from tests.raw_data import make_raw_dataset, save

GOOD = ("a", "z")
UNREADABLE = Path("/proc/self/mem")
"""whose first bytes are an input/output error for every user"""


def truncated(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:60])
    return "E-IMG-02"


def link_to_nowhere(path: Path) -> str:
    path.unlink()
    path.symlink_to("gone.nii.gz")
    return "E-IMG-07"


def unreadable(path: Path) -> str:
    if not UNREADABLE.exists():
        pytest.skip(f"no {UNREADABLE} to stand for a bad disk")
    path.unlink()
    path.symlink_to(UNREADABLE)
    return "E-IMG-07"


def pipe(path: Path) -> str:
    """Opening one for reading waits forever."""
    path.unlink()
    os.mkfifo(path)
    return "E-IMG-07"


def no_utf8(path: Path) -> str:
    path.rename(path.with_name(path.name.replace("m", os.fsdecode(b"m\xfc"), 1)))
    return "E-CASE-02"


def line_break(path: Path) -> str:
    path.rename(path.with_name(path.name.replace("m", "m\n", 1)))
    return "E-CASE-02"


def labels(seed: int) -> np.ndarray:
    drawn = np.zeros((20, 18, 6), np.uint8)
    drawn[3 + seed : 9 + seed, 4:12, 1:5] = 1
    return drawn


def check_convert(root: Path, spoil: Callable[[Path], str]) -> tuple[int, str, Path, list[Path]]:
    for seed, case in enumerate((*GOOD, "m")):
        write_image(root / "in" / "images" / f"{case}.nii.gz", seed=seed)
    code = spoil(root / "in" / "images" / "m.nii.gz")
    words = ["-d", "Folder", "--name", "Mine", "--images", root / "in" / "images", "--root", root]
    made = root / "raw" / "Dataset100_Mine"
    found = convert([str(word) for word in words])
    return found, code, made / "failures.json", [made / "imagesUn" / f"{case}_0000.nii.gz" for case in GOOD]


def check_plan(root: Path, spoil: Callable[[Path], str]) -> tuple[int, str, Path, list[Path]]:
    make_raw_dataset(root / "raw" / "Dataset007_Boxes", cases=(*GOOD, "b", "m"))
    code = spoil(root / "raw" / "Dataset007_Boxes" / "imagesTr" / "m_0000.nii.gz")
    found = plan(["-d", "7", "--root", str(root), "--skip-invalid"])
    made = root / "preprocessed" / "Dataset007_Boxes"
    return found, code, made / "failures.json", [made / "slices" / f"{case}.json" for case in GOOD]


def check_predict(root: Path, spoil: Callable[[Path], str]) -> tuple[int, str, Path, list[Path]]:
    write_fake_run(root / "results")
    for seed, case in enumerate((*GOOD, "m")):
        write_image(root / "in" / f"{case}.nii.gz", seed=seed)
    code = spoil(root / "in" / "m.nii.gz")
    found = predict(["--root", str(root), "-i", str(root / "in"), "-o", str(root / "out")])
    return found, code, root / "out" / "failures.json", [root / "out" / f"{case}.nii.gz" for case in GOOD]


def check_evaluate(root: Path, spoil: Callable[[Path], str]) -> tuple[int, str, Path, list[Path]]:
    for seed, case in enumerate((*GOOD, "m")):
        for folder in ("labels", "preds"):
            save(root / folder / f"{case}.nii.gz", labels(seed))
    code = spoil(root / "preds" / "m.nii.gz")
    if code == "E-CASE-02":
        spoil(root / "labels" / "m.nii.gz")
    found = evaluate(["-g", str(root / "labels"), "-p", str(root / "preds"), "--labels", "organ=1"])
    summary = root / "preds" / "summary.json"
    assert [row["case"] for row in json.loads(summary.read_text())["metric_per_case"]] == [*GOOD]
    return found, code, root / "preds" / "failures.evaluation.json", [summary]


def check_export(root: Path, spoil: Callable[[Path], str]) -> tuple[int, str, Path, list[Path]]:
    raw = make_raw_dataset(root / "raw" / "Dataset007_Boxes", cases=(*GOOD, "m"))
    code = spoil(raw / "labelsTr" / "m.nii.gz")
    words = ["labels", raw / "labelsTr", "-o", root / "out", "--format", "seg.nrrd", "--root", root]
    found = export([str(word) for word in words])
    return found, code, root / "out" / "failures.json", [root / "out" / f"{case}.seg.nrrd" for case in GOOD]


COMMANDS = {
    "convert": check_convert,
    "plan": check_plan,
    "predict": check_predict,
    "evaluate": check_evaluate,
    "export labels": check_export,
}
FAULTS = (truncated, link_to_nowhere, unreadable, pipe, no_utf8, line_break)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("command", COMMANDS)
def test_one_bad_file_costs_its_case_alone(
    command: str, fault: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, code, failures, made = COMMANDS[command](tmp_path, fault)
    assert found == 3
    assert all(path.is_file() for path in made)
    ((name, failure),) = read_json(Failures, failures).cases.items()
    assert name.startswith("m")
    assert name == printable(name)
    assert failure.code == code
    text = capsys.readouterr()
    assert "Traceback" not in text.err + text.out


def test_a_report_leaves_out_the_case_that_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_reported_run(tmp_path)
    whole = run / "fold_0" / "validation" / "far.nii.gz"
    kept = whole.read_bytes()
    truncated(whole)
    assert report([str(run), "--root", str(tmp_path)]) == 3
    page = (run / "report.html").read_text()
    assert "far is left out" in page
    assert {name: one.code for name, one in read_json(Failures, run / "failures.report.json").cases.items()} == {
        "far": "E-IMG-02"
    }
    assert "failed: far: E-IMG-02" in capsys.readouterr().out
    whole.write_bytes(kept)
    assert report([str(run), "--root", str(tmp_path)]) == 0
    assert not (run / "failures.report.json").exists()


def test_a_long_name_is_no_full_disk(tmp_path: Path) -> None:
    write_fake_run(tmp_path / "results")
    longest = "n" * (255 - len(".nii.gz"))
    for case in ("a", longest, "z"):
        write_image(tmp_path / "in" / f"{case}.nii.gz")
    words = ["--root", str(tmp_path), "-i", str(tmp_path / "in"), "-o", str(tmp_path / "out")]
    assert predict(words) == 0
    assert (tmp_path / "out" / f"{longest}.nii.gz").is_file()
    # The name of a further file of the case is too long for the file system: the case fails, and no other.
    shutil.rmtree(tmp_path / "out")
    assert predict([*words, "--save-uncertainty"]) == 3
    ((_, failure),) = read_json(Failures, tmp_path / "out" / "failures.json").cases.items()
    assert failure.code == "E-OUT-05"
    assert (tmp_path / "out" / "z.nii.gz").is_file()
