"""SAMora-2 and SAMed-2 through the public path: all stages at tiny size, two epochs each, validate, predict."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import pytest
import torch

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.errors import UsageError
from samora_pipeline.inference.cli import main as predict
from samora_pipeline.paths import resolve_roots
from samora_pipeline.weights.files import read_weights
from tests.trainers.runs import STAGES, artefact_folders, command, final, fold_folder, losses, session
from tests.trainers.small_data import NAME, SCORED, make_dataset
from trainers.runs.planning import plan_run
from trainers.runs.request import Request

TRAINERS = ("SAMora2Trainer", "SAMed2Trainer")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root in which both were trained and validated."""
    root = make_dataset(tmp_path_factory.mktemp("sam2"))
    for trainer in TRAINERS:
        words = ("--name", "a", "--backbone", "samora2_tiny", "--set", "finetune.warmup=1")
        assert session(command(root, *words, trainer=trainer)) == 0
    return root


@pytest.mark.parametrize("trainer", TRAINERS)
def test_two_epochs_are_trained_and_scored(root: Path, trainer: str) -> None:
    folder = fold_folder(root, f"{trainer}__2cases__a")
    config = read_json(RunConfig, folder / "config.json")
    assert (config.model.backbone, config.model.decoder) == ("samora2_tiny", "sam2")
    finetune = config.stage("finetune")
    assert finetune is not None
    assert finetune.settings["loss_at"] == "input"
    assert len(losses(folder)) == 2
    assert {case.case for case in read_json(Summary, folder / "summary.json").metric_per_case} == set(SCORED)


def test_the_base_has_the_layout_of_the_public_files(root: Path) -> None:
    folder = fold_folder(root, "SAMora2Trainer__2cases__a")
    names = {name.split(".")[0] for name in read_weights(folder / "base.safetensors")}
    assert names == {"image_encoder", "no_mem_embed", "sam_prompt_encoder", "sam_mask_decoder"}


def test_every_level_trains_an_expert_on_every_block(root: Path) -> None:
    ours, theirs = (final(root, f"{trainer}__2cases__a").tensors for trainer in TRAINERS)
    for stage in STAGES[1:]:
        expert = load_checkpoint(artefact_folders(root)[stage] / "expert.safetensors").tensors
        level = stage.removeprefix("expert_")
        assert len(expert) == 5 * 4
        for name, value in expert.items():
            path, _, leaf = name.rpartition(".")
            assert torch.equal(ours[f"image_encoder.{path}.experts.{level}.{leaf}"], value)
            assert value.any() or leaf != "v_b"
    assert all(value.any() for name, value in theirs.items() if name.endswith("experts.image.v_b"))
    assert not any(".fusion." in name for name in theirs)
    assert any(value.any() for name, value in ours.items() if name.endswith("fusion.second.out.weight"))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_prediction_needs_no_trainer(root: Path, trainer: str, tmp_path: Path) -> None:
    run = fold_folder(root, f"{trainer}__2cases__a")
    scan = tmp_path / "scans" / "case_4_0000.nii.gz"
    scan.parent.mkdir()
    shutil.copy(root / "raw" / NAME / "imagesTr" / scan.name, scan)
    words = ["--root", str(root), "-i", str(scan.parent), "-o", str(tmp_path / "out"), "-m", str(run.parent)]
    assert predict([*words, "--device", "cpu"]) == 0
    got, validated = (
        nibabel.load(folder / "case_4.nii.gz").get_fdata() for folder in (tmp_path / "out", run / "validation")
    )
    assert (got == validated).all()


def test_a_decoder_of_the_other_family_is_refused_before_anything_is_trained(root: Path) -> None:
    request = Request("90", "SAMoraTrainer", "2cases", backbone="samora2_tiny", backbone_weights="bootstrap")
    with pytest.raises(UsageError, match="E-MODEL-06") as caught:
        plan_run(request, resolve_roots(str(root)))
    assert caught.value.fix == "--set model.decoder=sam2"
