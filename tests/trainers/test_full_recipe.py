"""Recipe ``full`` in one go, killed in every stage, and on two ranks: teachers, distillation, monitoring."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.json_io import read_json, to_plain
from samora_pipeline.contracts.monitoring import ExpertsReport, MonitoringReport
from samora_pipeline.contracts.run import LATEST_CHECKPOINT, RunConfig
from tests.trainers.runs import artefact_folders, final, fold_folder, losses, session, session_on_ranks, short
from tests.trainers.small_data import NAME, make_dataset

STAGES = ("teacher_image", "teacher_patch", "expert_image", "expert_patch", "expert_pixel")
RUN = "SAMoraTrainer__2cases__a"
FILES = {stage: f"{stage.split('_')[0]}.safetensors" for stage in STAGES}


def words(root: Path, *more: str) -> list[str]:
    tiny = ("--backbone", "samora_tiny", "--device", "cpu", "--debug", "--recipe", "full")
    return [
        "90",
        "SAMoraTrainer",
        "2cases",
        "--root",
        str(root),
        *tiny,
        *short(*STAGES, "finetune"),
        "--name",
        "a",
        *more,
    ]


def data(root: Path) -> Path:
    make_dataset(root)
    # Without raw files of the scored cases nothing is predicted, which is tested elsewhere.
    shutil.rmtree(root / "raw" / NAME / "imagesTr")
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = data(tmp_path_factory.mktemp("full"))
    assert session(words(root), pictures=True) == 0
    return root


def test_teachers_and_experts_tell_what_they_come_from(whole: Path) -> None:
    config = read_json(RunConfig, fold_folder(whole, RUN) / "config.json")
    assert "TEACHER FROM RANDOM WEIGHTS" in config.warnings
    folders = artefact_folders(whole)
    assert set(folders) == set(STAGES)
    for level in ("image", "patch"):
        record = load_checkpoint(folders[f"expert_{level}"] / "expert.safetensors").record
        teacher = config.stage(f"teacher_{level}")
        assert teacher is not None
        assert teacher.key == folders[f"teacher_{level}"].parent.name
        assert json.loads((folders[f"expert_{level}"] / "inputs.json").read_text())["teacher"] == teacher.digest
        assert record["teacher"] == to_plain(config.teachers[level])
        assert record["teacher"]["origin"] == "random"
        assert set(record["seen"]) == {"case_0", "case_1", "case_2", "case_3", "more_0"}
    assert load_checkpoint(folders["expert_pixel"] / "expert.safetensors").record["teacher"] is None


def test_every_stage_leaves_a_monitoring_report(whole: Path) -> None:
    for stage, folder in artefact_folders(whole).items():
        report = read_json(MonitoringReport, folder / "monitoring.json")
        assert (folder / "monitoring.png").read_bytes().startswith(b"\x89PNG")
        names = {measure.name for measure in report.measures}
        assert {"position_error", "skipped_steps", "data_wait", "monitor_share", "loss_ratio"} <= names
        assert ("gap" in names) == stage.startswith("expert")
        assert bool(report.blocks) == stage.startswith("expert")
        assert (report.verdict == "warn") == any(measure.passed is False for measure in report.measures)
        assert all(measure.advice for measure in report.measures if measure.passed is False)
        assert bool(report.taught_by) == (stage != "expert_pixel")
        assert report.epochs == 2
    own = {
        "teacher_image": {"accuracy", "alignment", "uniformity", "embedding_spread", "embedding_rank"},
        "teacher_patch": {"explained"},
        "expert_image": {"teacher_similarity", "cosine"},
        "expert_patch": {"teacher_similarity", "explained"},
        "expert_pixel": {"psnr_gain", "ssim_gain"},
    }
    for stage, wanted in own.items():
        report = read_json(MonitoringReport, artefact_folders(whole)[stage] / "monitoring.json")
        assert wanted <= {measure.name for measure in report.measures}


def test_the_experts_are_compared(whole: Path) -> None:
    folder = fold_folder(whole, RUN)
    report = read_json(ExpertsReport, folder / "experts.json")
    assert report.names == ("base", "image", "patch", "pixel")
    similarity = np.array(report.similarity)
    np.testing.assert_allclose(np.diag(similarity), 1, atol=1e-5)
    np.testing.assert_allclose(similarity, similarity.T, atol=1e-5)
    assert (folder / "experts.png").read_bytes().startswith(b"\x89PNG")


def test_killed_in_every_stage_it_ends_bit_equal(whole: Path, tmp_path: Path) -> None:
    root = data(tmp_path)
    # In the second epoch, so that a state of optimizer and running statistics is there to go on from; at the first
    # step a stop leaves it as the epoch began, at the second in the middle.
    for stage, step in zip(STAGES, (3, 4, 4, 3, 4), strict=True):
        kind = signal.SIGTERM if stage in ("teacher_image", "expert_pixel") else signal.SIGKILL
        expected = 143 if kind is signal.SIGTERM else -signal.SIGKILL
        assert session(words(root, "-c"), at=(stage, step, kind)) == expected
        (saved,) = (root / "results" / NAME / "pretraining").glob(f"*/{stage}/{LATEST_CHECKPOINT}")
        done = step if kind is signal.SIGTERM else 2
        assert load_checkpoint(saved).record["state"]["step"] == done
    assert session(words(root, "-c")) == 0
    one, other = artefact_folders(whole), artefact_folders(root)
    for stage, file in FILES.items():
        first, second = (load_checkpoint(folders[stage] / file).tensors for folders in (one, other))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), stage
    first, second = final(whole, RUN).tensors, final(root, RUN).tensors
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_ranks_that_are_stopped_and_go_on_give_the_losses_of_one(whole: Path, tmp_path: Path) -> None:
    root = data(tmp_path)
    for stage in ("teacher_image", "expert_patch"):
        assert session_on_ranks(2, words(root, "-c"), at=(stage, 3, signal.SIGTERM)) == [143, 143]
    assert session_on_ranks(2, words(root, "-c")) == [0, 0]
    one, two = artefact_folders(whole), artefact_folders(root)
    for stage in STAGES:
        # Batch norm in single precision over two ranks rounds differently, and later stages inherit the difference.
        np.testing.assert_allclose(losses(two[stage]), losses(one[stage]), rtol=1e-3, err_msg=stage)


def test_another_feature_needs_another_expert_but_no_other_teacher(whole: Path) -> None:
    before = {folder: (folder / "log.jsonl").read_bytes() for folder in artefact_folders(whole).values()}
    for changed in ("masked_share=0.5", "feature=tokens_18_of_24"):
        more = ("--stage", "expert_patch", "--name", "b", "--set", f"expert_patch.{changed}")
        assert session(words(whole, *more)) == 0
    made = list((whole / "results" / NAME / "pretraining").glob("*/*/record.json"))
    assert sorted(path.parent.name for path in made).count("expert_patch") == 3
    assert len(made) == len(STAGES) + 2
    assert {folder: (folder / "log.jsonl").read_bytes() for folder in before} == before
