"""Every trainer through the four commands at tiny size, on drawn and on real scans, and every fusion on the former."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from dataset_conversion.cli import main as convert
from planners.cli import main as plan_and_preprocess
from samora_pipeline.contracts.checkpoints import Checkpoint, load_checkpoint
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, RunConfig
from samora_pipeline.inference.cli import main as predict
from samora_pipeline.models.catalog import FUSIONS
from tests.trainers.processes import exit_code, forked
from tests.trainers.runs import STAGES, losses, session, short
from trainers import rivals
from trainers.methods import TRAINERS
from trainers.stages import validate

REAL = (
    Path(os.environ.get("SAMORA_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
    / "Task04_Hippocampus"
)
CASES = 3
# Options that make the networks of others as small as ours.
SMALL = {
    "TransUNetTrainer": ("depths=1,1,1", "width=32", "heads=2", "layers=1", "hidden=64"),
    "UNETR2DTrainer": ("feature_size=4", "hidden_size=24", "mlp_dim=48", "num_heads=2"),
    "SwinUNETR2DTrainer": ("feature_size=12",),
}


def prepare_phantom(root: Path) -> None:
    assert convert(["-d", "Phantom", "--scans", "2", "1", "1", "--root", str(root)]) == 0


def prepare_hippocampus(root: Path) -> None:
    source = root / "Task04_Hippocampus"
    description = json.loads((REAL / "dataset.json").read_text())
    description["training"] = description["training"][:CASES]
    for pair in description["training"]:
        for path in pair.values():
            copy = source / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(REAL / path)
    (source / "dataset.json").write_text(json.dumps(description))
    assert convert(["-d", "Task04_Hippocampus", "-i", str(source), "--root", str(root)]) == 0


PREPARE: dict[str, Callable[[Path], None]] = {"90": prepare_phantom, "14": prepare_hippocampus}
DATASETS = [
    pytest.param("90", id="phantom"),
    pytest.param(
        "14",
        id="hippocampus",
        marks=pytest.mark.skipif(not REAL.is_dir(), reason="real hippocampus scans are not in SAMORA_TEST_DATA"),
    ),
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The root of a dataset that is ready for training, made when first asked for."""
    roots: dict[str, Path] = {}

    def root(dataset: str) -> Path:
        if dataset not in roots:
            folder = tmp_path_factory.mktemp(f"dataset_{dataset}")

            def work() -> int:
                PREPARE[dataset](folder)
                return plan_and_preprocess(["-d", dataset, "--set", "input_size=64", "--root", str(folder)])

            assert exit_code(forked(work)) == 0
            roots[dataset] = folder
        return roots[dataset]

    return root


def train(root: Path, dataset: str, trainer: str, name: str, *words: str) -> Path:
    """Two epochs of two steps of every stage that is missing, and validation; return the fold's folder."""
    sam2 = TRAINERS.get(trainer).backbone.startswith("sam2")
    backbone = ["samora2_tiny", "--backbone-weights", "bootstrap"] if sam2 else ["samora_tiny"]
    if TRAINERS.get(trainer).network is None:
        words = ("--backbone", *backbone, *words)
    if TRAINERS.get(trainer).takes_volumes:
        words = ("--set", "model.volume=16,32,32", *words)
    words = (*words, *(word for option in SMALL.get(trainer, ()) for word in ("--set", f"model.{option}")))
    lengths = short(*STAGES, "finetune")
    # Where all slices have labels there is nothing else to learn from.
    split = "full" if TRAINERS.get(trainer).finetune.consistency is None else "1cases"
    options = ["--root", str(root), "--device", "cpu", "--debug", "--name", name]

    def work() -> int:
        validate.write_run_report = lambda *arguments, **options: None  # which takes longer than the run
        return session([dataset, trainer, split, *options, *lengths, *words])

    assert exit_code(forked(work)) == 0
    (fold,) = (root / "results").glob(f"*/{trainer}__{split}__{name}/fold_*")
    return fold


def trained_on() -> Iterator[Any]:
    """Every trainer on every dataset; the systems of others on drawn scans, and ours on real ones, take their time."""
    for trainer in TRAINERS.names():
        others = trainer in vars(rivals)
        for dataset, slow in ((DATASETS[0], others), (DATASETS[1], not others)):
            marks = [*dataset.marks, pytest.mark.slow] if slow else dataset.marks
            yield pytest.param(trainer, *dataset.values, marks=marks, id=f"{trainer}-{dataset.id}")


@pytest.mark.parametrize(("trainer", "dataset"), list(trained_on()))
def test_two_epochs_and_a_prediction(
    prepared: Callable[[str], Path], dataset: str, trainer: str, tmp_path: Path
) -> None:
    if "UNETR" in trainer:
        pytest.importorskip("monai", reason="the extra networks is not installed")
    root = prepared(dataset)
    fold = train(root, dataset, trainer, "all")
    assert len(losses(fold)) == 2
    assert np.isfinite(losses(fold)).all()
    config = read_json(RunConfig, fold / "config.json")
    assert len(config.experts) == (len(TRAINERS.get(trainer).levels) if "scratch" in config.recipe else 0)
    check_prediction(root, fold, config, tmp_path)


def check_prediction(root: Path, fold: Path, config: RunConfig, folder: Path) -> None:
    """``samora_predict`` repeats what validation predicted, on the grid of the scan."""
    raw = root / "raw" / config.dataset
    name = config.scored[0]
    (scan,) = raw.glob(f"images*/{name}_0000.nii.gz")
    (folder / "scans").mkdir()
    shutil.copy(scan, folder / "scans" / scan.name)
    words = ["--root", str(root), "-i", str(folder / "scans"), "-o", str(folder / "out"), "-m", str(fold.parent)]
    assert predict([*words, "--device", "cpu"]) == 0
    made = nibabel.load(folder / "out" / f"{name}.nii.gz")
    assert made.shape == nibabel.load(scan).shape
    values = np.asarray(made.dataobj)
    assert set(np.unique(values)) <= set(range(config.labels.num_outputs))
    assert np.array_equal(values, np.asarray(nibabel.load(fold / "validation" / f"{name}.nii.gz").dataobj))


@pytest.fixture(scope="module")
def fused(prepared: Callable[[str], Path]) -> dict[str, Checkpoint]:
    """The checkpoint of SAMora with each fusion; all share the experts."""
    root = prepared("90")
    folds = {name: train(root, "90", "SAMoraTrainer", name, "--set", f"fusion={name}") for name in FUSIONS.names()}
    experts = [read_json(RunConfig, fold / "config.json").experts for fold in folds.values()]
    assert len(experts[0]) == 3
    assert all(expert == experts[0] for expert in experts)
    return {name: load_checkpoint(fold / FINAL_CHECKPOINT) for name, fold in folds.items()}


def test_every_fusion_is_trained_on_the_same_experts(fused: dict[str, Checkpoint]) -> None:
    loras = {
        name: {key: value for key, value in checkpoint.tensors.items() if ".experts." in key}
        for name, checkpoint in fused.items()
    }
    first = next(iter(loras.values()))
    assert any(value.any() for key, value in first.items() if key.endswith("v_b"))
    for other in loras.values():
        assert all(torch.equal(other[key], value) for key, value in first.items())


def test_what_each_fusion_has_learned(fused: dict[str, Checkpoint]) -> None:
    own = {
        name: {key: value for key, value in checkpoint.tensors.items() if ".fusion." in key}
        for name, checkpoint in fused.items()
    }
    assert own["lac"] == {}
    assert all(any(v.any() for k, v in own[name].items() if "second.out" in k) for name in ("hl_attn", "hcat"))
    assert any(value.any() for key, value in own["hl_attn_self"].items() if "second.between.out" in key)
    assert any(value.any() for key, value in own["mole"].items() if key.endswith("gate.weight"))
    weights = [value for key, value in own["lorahub"].items() if key.endswith("weights")]
    assert len(weights) == 6
    assert all(torch.equal(value, weights[0]) for value in weights)
    assert weights[0].abs().max() <= 1.5
    assert not torch.allclose(weights[0], torch.full((3,), 1 / 3))


@pytest.mark.slow
def test_the_weights_of_lorahub_depend_on_the_seed_alone(
    prepared: Callable[[str], Path], fused: dict[str, Checkpoint]
) -> None:
    fold = train(prepared("90"), "90", "SAMoraTrainer", "again", "--set", "fusion=lorahub")
    again = load_checkpoint(fold / FINAL_CHECKPOINT).tensors
    assert all(torch.equal(again[key], value) for key, value in fused["lorahub"].tensors.items())
