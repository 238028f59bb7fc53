"""From drawn scans to a report by the installed commands, each a process of its own as in a shell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = "SAMoraTrainer__full__end_to_end"
TEST_CASES = 2
FLOORS = {"liver": 0.6, "right_kidney": 0.35}
"""Dice. Shuffled labels, masks that are mirrored, turned or moved by an organ, and no training stay below."""
EPOCHS = {"expert_image": 1, "expert_patch": 1, "expert_pixel": 1, "finetune": 16}
STEPS = {"expert_image": 3, "expert_patch": 3, "expert_pixel": 3, "finetune": 6}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("end_to_end")


def command(name: str, *words: str, root: Path) -> str:
    """Run an installed command; its output. It must end with 0."""
    environment = {**os.environ, "SAMORA_ROOT": str(root), "OMP_NUM_THREADS": "2"}
    script = Path(sys.executable).with_name(name)
    ended = subprocess.run([str(script), *words], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{name} {' '.join(words)}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def dice(summary: dict[str, Any], organ: str) -> float:
    """Mean Dice of an organ in the file that samora_evaluate writes."""
    (label,) = (label for label, name in summary["labels"].items() if name == organ)
    return float(summary["mean"][label]["Dice"])


def test_convert_plan_train_predict_evaluate_report(root: Path) -> None:
    command("samora_convert", "-d", "Phantom", "--scans", "6", str(TEST_CASES), "1", root=root)
    raw = root / "raw" / "Dataset090_Phantom"
    assert len(list((raw / "labelsTs").glob("*.nii.gz"))) == TEST_CASES
    command("samora_plan_and_preprocess", "-d", "90", "--set", "input_size=96", root=root)
    assert (root / "preprocessed" / raw.name / "plans.json").is_file()

    lengths = {f"{stage}.epochs": value for stage, value in EPOCHS.items()}
    lengths |= {f"{stage}.steps_per_epoch": value for stage, value in STEPS.items()}
    sets = [word for name, value in lengths.items() for word in ("--set", f"{name}={value}")]
    words = ("90", "SAMoraTrainer", "full", "--backbone", "samora_tiny", "--name", "end_to_end", "--device", "cpu")
    command("samora_train", *words, *sets, root=root)
    run = root / "results" / raw.name / RUN
    (fold,) = run.glob("fold_*")
    for name in ("config.json", "checkpoint_final.safetensors", "summary.json", "report.html"):
        assert (fold / name).is_file()

    predictions = root / "predictions"
    command("samora_predict", "-i", str(raw / "imagesTs"), "-o", str(predictions), "-m", str(run), root=root)
    truths = {path.name for path in (raw / "labelsTs").glob("*.nii.gz")}
    assert {path.name for path in predictions.glob("*.nii.gz")} == truths
    command("samora_evaluate", "-g", str(raw / "labelsTs"), "-p", str(predictions), root=root)
    summary = json.loads((predictions / "summary.json").read_text())
    validation = json.loads((fold / "summary.json").read_text())
    for organ, floor in FLOORS.items():
        assert dice(summary, organ) > floor
        # Validation inside of samora_train has scored the same cases by the same network.
        assert dice(validation, organ) == pytest.approx(dice(summary, organ))

    page = root / "again.html"
    command("samora_report", str(run), "-o", str(page), root=root)
    assert "phantom_" in page.read_text()
