"""What is to run in the first hour on a GPU runs on the pretended one, without readers of volumes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "first_gpu_hour.sh"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """What the script takes for python."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.benchmarks.pretended_hour "$@"\n')
    path.chmod(0o755)
    return path


def hour(python: Path, folder: Path, *chunks: str) -> str:
    environment = {**os.environ, "PYTHON": str(python), "SAMORA_ROOT": str(folder), "OMP_NUM_THREADS": "1"}
    words = ["bash", str(SCRIPT), str(folder), *chunks]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return (folder / "table.md").read_text()


def test_curves_and_the_table_run_on_the_pretended_device(tmp_path: Path, python: Path) -> None:
    page = hour(python, tmp_path, "curves")
    assert re.search(r"Losses of 4 steps: fp32 \d", page)
    found = json.loads((tmp_path / "curves.json").read_text())["found"]
    assert found["fp32"] != found["bf16"]
    assert found["largest_difference"] < 0.05


@pytest.mark.slow
def test_every_chunk_runs_on_the_pretended_device(tmp_path: Path, python: Path) -> None:
    page = hour(python, tmp_path)
    assert page.count("\n| finetune SAMora") == 3
    assert len(re.findall(r"\| \d+\.\d \| \d+\.\d \|", page)) == 10
    assert "Resumed: 0 of" in page
    assert "5 slices" in page


def test_a_chunk_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncase "$3" in table) echo page ;; *) echo "$3"; [ "$3" != resume ] ;; esac\n')
    python.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(python), "SAMORA_ROOT": str(tmp_path)}
    words = ["bash", str(SCRIPT), str(tmp_path), "resume", "curves"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert ended.returncode == 1
    assert ended.stdout.splitlines() == ["== resume", "resume", "== curves", "curves", "page", "failed: resume"]
