"""The gate fails on a skip that nobody wrote down, and on nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("pytest.skip('the extra dask is not installed')", 0),
        ("pytest.skip('I did not feel like it')", 1),
        ("pytest.importorskip('no_such_module_anywhere')", 1),
        ("pytest.xfail('known')", 0),
        ("pass", 0),
    ],
)
def test_unlisted_skips_fail(body: str, code: int, tmp_path: Path) -> None:
    for file in (CONFTEST, CONFTEST.with_name("allowed_skips.txt")):
        (tmp_path / file.name).write_text(file.read_text())
    (tmp_path / "test_it.py").write_text(f"import pytest\n\ndef test_it():\n    {body}\n")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--listed-skips-only", "test_it.py"]
    ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == code, ended.stdout
