"""The four commands of the README's first screen, as they are printed, in an empty folder without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from tests.end_to_end.synapse_tree import TEST, make_synapse_tree

README = Path(__file__).parents[2] / "README.md"
COMMANDS = ("samora_convert", "samora_plan_and_preprocess", "samora_train", "samora_predict")
SMALL, BUDGET = (5, 6, 7, 9, 1, 2), "0.8"
"""scans and minutes where all thirty for ten minutes would take too long"""


def printed_commands() -> list[list[str]]:
    """The first block of commands that converts Synapse."""
    lines = [line.strip() for line in README.read_text(encoding="utf-8").splitlines()]
    first = lines.index("samora_convert -d Synapse")
    return [line.split() for line in lines[first : first + len(COMMANDS)]]


def run_all(folder: Path, *more: str) -> None:
    """Run them in ``folder``; ``more`` words go to samora_train."""
    names = {"SAMORA_ROOT"}
    environment = {name: value for name, value in os.environ.items() if name not in names}
    # No source of weights answers.
    environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {"CUDA_VISIBLE_DEVICES": ""}
    for name, words in zip(COMMANDS, printed_commands(), strict=True):
        assert words[0] == name
        script = Path(sys.executable).with_name(name)
        added = more if name == "samora_train" else ()
        ended = subprocess.run(
            [str(script), *words[1:], *added], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, f"{' '.join(words)}\n{ended.stdout}\n{ended.stderr}"


def check(folder: Path, cases: tuple[int, ...], least: float) -> None:
    """A scored run, and masks on the grids of the raw scans."""
    (summary,) = folder.glob("samora_data/results/*/SAMoraTrainer__10pct__default/fold_official/summary.json")
    assert json.loads(summary.read_text())["foreground_mean"]["Dice"] > least
    for number in cases:
        scan = nibabel.load(folder / "samora_data" / "downloads" / "Synapse" / "img" / f"img{number:04d}.nii.gz")
        mask = nibabel.load(folder / "preds" / f"case{number:04d}.nii.gz")
        assert mask.shape == scan.shape
        assert np.allclose(mask.affine, scan.affine)


def test_the_four_commands_as_printed(tmp_path: Path) -> None:
    make_synapse_tree(tmp_path / "samora_data" / "downloads" / "Synapse", SMALL)
    run_all(tmp_path, "--minutes", BUDGET)
    check(tmp_path, (1, 2), 0.1)


@pytest.mark.slow
def test_the_four_commands_on_thirty_scans(tmp_path: Path) -> None:
    make_synapse_tree(tmp_path / "samora_data" / "downloads" / "Synapse")
    begun = time.monotonic()
    run_all(tmp_path)
    minutes = (time.monotonic() - begun) / 60
    check(tmp_path, tuple(TEST), 0.3)
    assert minutes < 15
