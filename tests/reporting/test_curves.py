from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from samora_pipeline.contracts.colours import BLUE
from samora_pipeline.reporting.curves import _panels, draw_progress

RECORDS = [
    {"stage": "finetune", "epoch": 1, "loss": 1.0, "dice_loss": 0.9, "cross_entropy": 0.7, "lr": 1e-3, "seconds": 2.0},
    {"stage": "finetune", "epoch": 2, "loss": 0.5, "dice_loss": 0.4, "cross_entropy": 0.3, "lr": 5e-4, "seconds": 2.0},
    {"stage": "finetune", "epoch": 3, "loss": 0.4, "lr": 1e-4, "seconds": 2.0, "validation_dice": 0.8, "note": "x"},
]


def test_each_value_is_in_the_panel_of_its_kind() -> None:
    panels = _panels([*RECORDS, {"epoch": 4, "accuracy": 0.3, "chance": 4.0, "noisy": None}])
    assert {name: list(curves) for name, curves in panels.items()} == {
        "loss": ["loss", "dice_loss", "cross_entropy", "chance"],
        "Dice": ["validation_dice"],
        "measures": ["accuracy"],
        "learning rate": ["lr"],
    }
    assert panels["loss"]["loss"] == [(1.0, 1.0), (2.0, 0.5), (3.0, 0.4)]
    assert panels["Dice"]["validation_dice"] == [(3.0, 0.8)]


def test_the_picture_has_a_panel_per_kind_and_falls_with_the_loss(tmp_path: Path) -> None:
    draw_progress(RECORDS, tmp_path / "progress.png", "finetune")
    whole = imread(tmp_path / "progress.png")
    draw_progress([{"epoch": i, "loss": 1 / i} for i in range(1, 9)], tmp_path / "one.png", "only a loss")
    one = imread(tmp_path / "one.png")
    assert whole.shape[0] > 2 * one.shape[0]
    rows, columns = np.nonzero((np.abs(one[..., :3] - to_rgb(BLUE)) < 0.05).all(axis=-1))
    assert rows[columns < np.median(columns)].mean() < rows[columns > np.median(columns)].mean()


def test_a_log_without_epochs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no epoch"):
        draw_progress([], tmp_path / "progress.png", "nothing")


def test_drawing_leaves_no_global_state() -> None:
    code = (
        "import sys\nimport samora_pipeline.reporting.curves, samora_pipeline.reporting.overlays\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
