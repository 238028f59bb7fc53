"""Self-training: what the soft labels are, what a student may be taught by, and whole runs that are killed."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, RunConfig
from samora_pipeline.errors import AssetError, DataError, UsageError
from samora_pipeline.imaging.resampling import InPlaneMap
from samora_pipeline.inference.predictor import Predictor
from samora_pipeline.paths import resolve_roots
from samora_pipeline.slices.store import StoredSlices
from tests.trainers.runs import final, fold_folder, losses, session, short
from tests.trainers.small_data import SCORED, make_dataset
from trainers.runs.choices import choose_method
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request
from trainers.settings import FINETUNE
from trainers.stages.finetune import Finetune
from trainers.stages.self_training import SOFT_LABELS_FOLDER, SelfTrainingTask, make_soft_labels

TEACHERS = ("first", "second")
STUDENT = Request("90", "UNetTrainer", "2cases", taught_by=TEACHERS, precision="fp32")


def _words(root: Path, name: str, *words: str, trainer: str = "UNetTrainer") -> list[str]:
    options = ["--root", str(root), "--device", "cpu", "--debug", "--precision", "fp32", "--name", name]
    return ["90", trainer, "2cases", *options, *short(FINETUNE), *words]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The balls, and two finished runs on them."""
    folder = make_dataset(tmp_path_factory.mktemp("self_training"))
    assert session(_words(folder, "first")) == 0
    tiny = ("--backbone", "samora_tiny", "--recipe", "none", "--seed", "1")
    assert session(_words(folder, "second", *tiny, trainer="SAMedTrainer")) == 0
    return folder


@pytest.fixture
def plan(root: Path) -> PlannedRun:
    return plan_run(STUDENT, resolve_roots(str(root)))


def test_soft_labels_are_the_mean_of_what_the_teachers_predict(root: Path, plan: PlannedRun) -> None:
    labels = make_soft_labels(plan.config, plan.context)
    folders = [
        fold_folder(root, f"{name}").parent for name in ("UNetTrainer__2cases__first", "SAMedTrainer__2cases__second")
    ]
    teachers = [Predictor.load(folder, folds=["0"], device="cpu", precision="fp32") for folder in folders]
    assert plan.context.pool is not None
    (member,) = plan.context.pool.members
    case, size = member.cases[1], plan.config.model.input_size
    stored = StoredSlices.open(member.dataset.slices, case)
    images = np.stack([stored.image(index) for index in range(len(stored))])
    way = InPlaneMap.for_case(stored.record, plan.config.plans, size)
    expected = np.mean(
        [
            way.image(torch.cat([part.probabilities for part in teacher.predict_scores(images, (1, 1, 1))]).numpy())
            for teacher in teachers
        ],
        axis=0,
    )
    found = labels.read([f"{member.dataset.name}/{case}/{index}" for index in range(len(stored))])
    assert tuple(found.shape) == (len(stored), 2, size, size)
    np.testing.assert_allclose(found.numpy(), expected[:, 1:], atol=0.5 / 255 + 1e-5)
    assert (
        {file.stem.partition("__")[2] for file in labels.folder.iterdir()} == set(member.cases) if labels.folder else ""
    )
    assert not set(SCORED) & set(member.cases)


def test_the_loss_is_that_of_the_labels_and_of_the_soft_labels(plan: PlannedRun) -> None:
    stage = plan.context.stages[FINETUNE]
    assert isinstance(stage, Finetune)
    network = stage.network(plan.config, plan.context).eval()  # each slice by itself
    pool = plan.context.read_pool(without=plan.config.selection)
    task = SelfTrainingTask(
        plan.config,
        stage.settings,
        network,
        plan.context.dataset.slices,
        0,
        pool,
        make_soft_labels(plan.config, plan.context),
    )
    batch = task.load([0, 1, 2], 0)
    loss, metrics = task.loss(batch, 0)
    alone, _ = super(SelfTrainingTask, task).loss({name: batch[name] for name in ("images", "targets", "drawn")}, 0)
    assert torch.allclose(loss - metrics["taught_loss"], alone, atol=1e-5)
    assert 0 < float(metrics["taught_loss"]) < 2
    assert tuple(batch["others"].shape) == tuple(batch["images"].shape)


def test_a_teacher_that_has_seen_what_is_scored_is_refused(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root, tmp_path / "root")
    file = fold_folder(tmp_path / "root", "UNetTrainer__2cases__first") / CONFIG_FILE
    config = read_json(RunConfig, file)
    write_json(replace(config, selection=replace(config.selection, cases=("case_1", SCORED[0]))), file)
    with pytest.raises(DataError, match="E-SELF-04") as caught:
        plan_run(STUDENT, resolve_roots(str(tmp_path / "root")))
    assert SCORED[0] in caught.value.found
    # Also at second hand.
    student = replace(config, taught_by=(plan_run(STUDENT, resolve_roots(str(root))).config.taught_by[0],))
    student = replace(student, taught_by=(replace(student.taught_by[0], seen=(SCORED[1],)),))
    write_json(student, file)
    with pytest.raises(DataError, match="E-SELF-04"):
        plan_run(STUDENT, resolve_roots(str(tmp_path / "root")))


def test_what_cannot_teach_is_refused(root: Path, tmp_path: Path) -> None:
    roots = resolve_roots(str(root))
    with pytest.raises(AssetError, match="E-SELF-01"):
        plan_run(replace(STUDENT, taught_by=("nobody",)), roots)
    with pytest.raises(AssetError, match="E-SELF-01"):
        plan_run(replace(STUDENT, fold="1"), roots)
    with pytest.raises(UsageError, match="E-ARG-23"):
        choose_method(replace(STUDENT, consistency=True))
    shutil.copytree(root, tmp_path / "root")
    plan = plan_run(STUDENT, resolve_roots(str(tmp_path / "root")))
    checkpoint = fold_folder(tmp_path / "root", "UNetTrainer__2cases__first") / FINAL_CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-4] + b"1234")
    with pytest.raises(DataError, match="E-SELF-02"):
        make_soft_labels(plan.config, plan.context)


def test_a_killed_student_goes_on_bit_for_bit(root: Path) -> None:
    words = ("--taught-by", *TEACHERS)
    assert session(_words(root, "whole", *words)) == 0
    assert session(_words(root, "twice", *words), at=(FINETUNE, 3, signal.SIGKILL)) == -signal.SIGKILL
    folder = fold_folder(root, "UNetTrainer__2cases__twice")
    made = {file: file.stat().st_mtime_ns for file in (folder / SOFT_LABELS_FOLDER).rglob("*.npy")}
    assert made
    assert session([*_words(root, "twice", *words), "-c"]) == 0
    one, other = (final(root, f"UNetTrainer__2cases__{name}").tensors for name in ("whole", "twice"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(folder) == losses(fold_folder(root, "UNetTrainer__2cases__whole"))
    assert not (folder / SOFT_LABELS_FOLDER).exists()
    taught_by = read_json(RunConfig, folder / CONFIG_FILE).taught_by
    assert [teacher.run.split("/")[1].rpartition("__")[2] for teacher in taught_by] == list(TEACHERS)
