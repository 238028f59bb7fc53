"""The commands of docs/prediction.md, run as they stand; its examples in Python: tests/docs/test_snippets.py."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from samora_pipeline.inference.cli import main
from tests.fake_run import write_fake_run, write_image
from tests.imaging.dicom_files import write_series

DOCS = Path(__file__).parents[2] / "docs"
_COMMAND = re.compile(r"^    (samora_predict .*)$", re.MULTILINE)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAW", "PREPROCESSED", "RESULTS", "WEIGHTS"):
        monkeypatch.delenv(f"SAMORA_{name}", raising=False)
    monkeypatch.setenv("SAMORA_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    write_fake_run(tmp_path / "root" / "results")
    write_image(tmp_path / "scan.nii.gz")
    write_series(tmp_path / "DICOM_FOLDER")
    write_image(tmp_path / "scans" / "a.nii.gz")
    write_image(tmp_path / "root" / "raw" / "Dataset090_Phantom" / "imagesTs" / "t_0000.nii.gz")
    return tmp_path


def test_the_commands_run(place: Path) -> None:
    commands = _COMMAND.findall((DOCS / "prediction.md").read_text(encoding="utf-8"))
    assert len(commands) == 4
    for command in commands:
        assert main(shlex.split(command)[1:]) == 0, command
    assert (place / "preds" / "t.nii.gz").is_file()
    assert (place / "out" / "a_uncertainty.nii.gz").is_file()
