"""nnU-Net as a variant: what its programs are asked, with stand-ins that write what nnU-Net writes."""

from __future__ import annotations

import importlib.util
import inspect
import json
import shlex
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.studies.label_efficiency import main
from benchmarks.studies.nnunet import SHORT_TRAINERS
from tests.trainers.forked_commands import launch
from tests.trainers.small_data import INPUT, NAME, make_dataset

_CONFIGURATION = f"{NAME}/nnUNetTrainer_250steps__nnUNetPlans__2d/fold_0"
_LOG = 'echo "$(basename "$0") $@" >> "$nnUNet_raw/../asked.txt"\n'
_PROGRAMS = {
    "nnUNetv2_plan_and_preprocess": f"""{_LOG}
mkdir -p "$nnUNet_preprocessed/{NAME}/nnUNetPlans_2d"
echo '{{}}' > "$nnUNet_preprocessed/{NAME}/nnUNetPlans.json"
""",
    "nnUNetv2_train": f"""{_LOG}
folder="$nnUNet_results/{_CONFIGURATION}"
mkdir -p "$folder"
test -f "$nnUNet_extTrainer/short.py" || exit 1
# Killed once, as nnU-Net is: with a checkpoint to go on from.
if [ -f "$folder/checkpoint_latest.pth" ]; then touch "$folder/checkpoint_final.pth"
else touch "$folder/checkpoint_latest.pth"; exit 137; fi
""",
    "nnUNetv2_predict": f"""{_LOG}
while [ $# -gt 0 ]; do case "$1" in -i) images="$2";; -o) out="$2";; esac; shift; done
for image in "$images"/*; do cp "$TRUTH/$(basename "$image" _0000.nii.gz).nii.gz" "$out"; done
""",
}


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in _PROGRAMS.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}")
        (folder / name).chmod(0o755)
    return folder


def test_a_variant_of_nnunet_goes_on_after_a_kill_and_is_scored(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset(tmp_path / "study")
    monkeypatch.setenv("TRUTH", str(root / "raw" / NAME / "labelsTr"))
    words = ["--root", str(root), "--dataset", "Balls", "--input-size", str(INPUT), "--device", "cpu"]
    words += ["--variants", "nnunet_2d", "--budgets", "2cases", "--seeds", "0", "--nnunet", str(programs)]
    words += ["--nnunet-trainer", "nnUNetTrainer_250steps"]
    assert main(words, launch) == 3
    assert main(words, launch) == 0
    run = "nnunet__2cases__nnunet-2d-nnUNetTrainer-250steps-seed0"
    own = root / "results" / NAME / run / "fold_0"
    asked = [shlex.split(line) for line in (own / "external" / "asked.txt").read_text().splitlines()]
    assert [line[0].removeprefix("nnUNetv2_") for line in asked] == [
        "plan_and_preprocess",
        "train",
        "train",
        "predict",
    ]
    assert all("nnUNetTrainer_250steps" in line for line in asked[1:])
    summary = json.loads((own / "summary.json").read_text())
    assert summary["foreground_mean"]["Dice"] == 1.0
    assert "nnU-Net v2, 2d" in (root / "study" / "results.md").read_text()


def test_the_short_training_has_the_steps_of_one_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    class Theirs:
        def __init__(self, plans: Any, configuration: str, fold: Any, dataset_json: Any, device: Any = None) -> None:
            # As nnU-Net does, which fails on parameters of other names.
            given = locals()
            self.my_init_kwargs = {name: given[name] for name in inspect.signature(self.__init__).parameters}  # type: ignore[misc]

    module = types.ModuleType("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    module.nnUNetTrainer = Theirs  # type: ignore[attr-defined]
    for name in ("nnunetv2", "nnunetv2.training", "nnunetv2.training.nnUNetTrainer"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    spec = importlib.util.spec_from_file_location("short", SHORT_TRAINERS / "short.py")
    assert spec is not None
    assert spec.loader is not None
    short = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(short)
    trainer = short.nnUNetTrainer_250steps({}, "2d", "all", {}, torch.device("cpu"))
    assert trainer.my_init_kwargs["configuration"] == "2d"
    assert trainer.num_epochs * trainer.num_iterations_per_epoch == 250
    assert trainer.save_every == 1
