"""H-SAMora and H-SAM through the public path: train two epochs, validate, predict."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import pytest
import torch

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.inference.cli import main as predict
from tests.trainers.runs import artefact_folders, command, final, fold_folder, session
from tests.trainers.small_data import NAME, SCORED, make_dataset

TRAINERS = ("HSAMoraTrainer", "HSAMTrainer")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which both were trained and validated."""
    root = make_dataset(tmp_path_factory.mktemp("two_stages"))
    for trainer in TRAINERS:
        assert session(command(root, "--name", "a", trainer=trainer)) == 0
    return root


@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_epochs_are_trained_and_scored(root: Path, trainer: str) -> None:
    folder = fold_folder(root, f"{trainer}__2cases__a")
    assert read_json(RunConfig, folder / "config.json").model.decoder == "hsam"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert {"stage_1_loss", "stage_2_loss"} <= set(lines[0])
    assert {case.case for case in read_json(Summary, folder / "summary.json").metric_per_case} == set(SCORED)


def test_what_learns_is_what_each_declares(root: Path) -> None:
    ours, theirs = (final(root, f"{trainer}__2cases__a").tensors for trainer in TRAINERS)
    for stage, folder in artefact_folders(root).items():
        if stage.startswith("expert_"):
            expert = load_checkpoint(folder / "expert.safetensors").tensors
            level = stage.removeprefix("expert_")
            kept = [n for n, v in expert.items() if torch.equal(v, ours[_in_network(n, level)])]
            assert len(kept) == len(expert) > 0
            assert level == "image" or not any(f"experts.{level}" in name for name in theirs)
    assert any(value.any() for name, value in theirs.items() if name.endswith("experts.image.q_b"))
    assert not any(".fusion." in name for name in theirs)
    # The last projection of HL-Attn starts at zero and has learned.
    assert any(value.any() for name, value in ours.items() if name.endswith("fusion.second.out.weight"))


def _in_network(name: str, level: str) -> str:
    path, _, leaf = name.rpartition(".")
    return f"image_encoder.{path}.experts.{level}.{leaf}"


@pytest.mark.parametrize("trainer", TRAINERS)
def test_prediction_needs_no_trainer(root: Path, trainer: str, tmp_path: Path) -> None:
    run = fold_folder(root, f"{trainer}__2cases__a")
    images = root / "raw" / NAME / "imagesTr"
    words = ["--root", str(root), "-i", str(images / "case_4_0000.nii.gz"), "-o", str(tmp_path), "-m", str(run.parent)]
    assert predict([*words, "--device", "cpu"]) == 0
    got = nibabel.load(tmp_path / "case_4.nii.gz")
    scan = nibabel.load(images / "case_4_0000.nii.gz")
    assert got.shape == scan.shape
    assert (got.affine == scan.affine).all()
    # What validation wrote is what users get.
    validated = nibabel.load(run / "validation" / "case_4.nii.gz")
    assert (got.get_fdata() == validated.get_fdata()).all()
