"""Training from preprocessed slices on a machine without readers of volumes and without the scans themselves."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.trainers.runs import fold_folder, session
from tests.trainers.small_data import NAME, make_dataset

# None in sys.modules makes an import fail as if the package were not installed.
_RUN = """
import sys
for name in {readers}:
    sys.modules[name] = None
from trainers.cli import main
sys.exit(main({words}))
"""
_READERS = ("nibabel", "SimpleITK", "pydicom", "h5py", "samora_pipeline.imaging.files", "samora_pipeline.imaging.dicom")
_SHORT = ("epochs=1", "steps_per_epoch=1", "batch=2")


def _words(root: Path) -> list[str]:
    """One expert and fine-tuning, a step each; the other stages without labels are imported with it."""
    short = [word for stage in ("expert_pixel", "finetune") for text in _SHORT for word in ("--set", f"{stage}.{text}")]
    words = ["90", "SAMoraTrainer", "2cases", "--root", str(root), "--backbone", "samora_tiny", "--device", "cpu"]
    return [*words, "--recipe", "scratch", "--levels", "pixel", "--name", "carried", *short]


def test_trains_up_to_fine_tuning_and_is_scored_where_the_scans_are(tmp_path: Path) -> None:
    here = make_dataset(tmp_path / "here")
    there = tmp_path / "there"
    shutil.copytree(here / "preprocessed", there / "preprocessed")
    (there / "raw" / NAME).mkdir(parents=True)
    for name in ("dataset.json", "samora.json"):
        shutil.copy(here / "raw" / NAME / name, there / "raw" / NAME / name)
    script = _RUN.format(readers=_READERS, words=_words(there))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=600, check=False)
    assert ended.returncode == 0, ended.stderr
    run = "SAMoraTrainer__2cases__carried"
    assert "validation skipped" in ended.stderr
    assert not (fold_folder(there, run) / "summary.json").exists()

    shutil.copytree(there / "results", here / "results")
    assert session([*_words(here), "--stage", "validate"]) == 0
    assert json.loads((fold_folder(here, run) / "summary.json").read_text())["n"] == 2
