"""Steps that are not finite, in every stage without labels: left out, counted, named, and without any trace."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from trainers.loading import Batch, read_batches
from trainers.loop_state import LoopState
from trainers.pretraining_config import BootstrapSettings
from trainers.samora import SAMoraTrainer
from trainers.skipping import PATIENCE, Skipping
from trainers.teachers import PlannedTeacher

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.contracts.pretraining_card import PretrainingCard
from samora_pipeline.contracts.run import PoolRecord, TeacherRecord
from samora_pipeline.errors import DataError
from samora_pipeline.run_log import Line
from samora_pipeline.slices.datasets import SliceId, SliceSource
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.sam_checkpoint import base_state
from tests.trainers.small_data import DEPTH, NAME, TRAIN, make_dataset
from trainers import loop
from trainers.stages.bootstrap import run_bootstrap
from trainers.stages.experts import ExpertInputs, expert_spec, run_expert
from trainers.stages.stage import StageContext, network_on_base
from trainers.stages.teachers import TeacherInputs, run_teacher

CONTEXT = StageContext(torch.device("cpu"), 0, "samora_train -c")
SHORT: dict[str, Any] = {"epochs": 2, "batch": 5, "steps_per_epoch": 3, "micro_batch": None}
STAGES = (
    "bootstrap",
    "teacher_image",
    "teacher_patch",
    "expert_image of scratch",
    "expert_patch of scratch",
    "expert_image of full",
    "expert_patch of full",
    "expert_pixel of full",
)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Plans:
    folder = make_dataset(tmp_path_factory.mktemp("skipping")) / "preprocessed" / NAME
    plans = read_json(Plans, folder / PLANS_FILE)
    _SOURCES[plans] = SliceSource(
        folder / "slices", [SliceId(case, i) for case in TRAIN[:3] for i in range(DEPTH)], plans
    )
    return plans


_SOURCES: dict[Plans, SliceSource] = {}


def run(stage: str, plans: Plans, folder: Path) -> tuple[list[Line], Path]:
    """Train a stage for two epochs of three steps; its history and its file."""
    name, _, recipe = stage.partition(" of ")
    settings = SAMoraTrainer().settings_for("samora_tiny", recipe or "full")
    stages = [key for key in vars(settings) if key.startswith(("expert", "teacher"))]
    settings = replace(settings, **{key: replace(getattr(settings, key), **SHORT) for key in stages})
    file, source = folder / name / "result.safetensors", _SOURCES[plans]
    if name == "bootstrap":
        return run_bootstrap("samora_tiny", source, plans, BootstrapSettings(**SHORT), CONTEXT, file, "d"), file
    level = Level(name.partition("_")[2])
    teacher = None
    if level is not Level.PIXEL and recipe != "scratch":
        own = getattr(settings, f"teacher_{level.value}")
        record = TeacherRecord(own.network, own.weights, "random")
        teacher = TeacherInputs(PlannedTeacher(level, own, record, "random", None, None), None, plans)
    if teacher is not None and name.startswith("teacher"):
        return run_teacher(teacher, source, CONTEXT, file, "d"), file
    base = folder / "base.pth"
    pool = PoolRecord({NAME: TRAIN[:3]}, ())
    inputs = ExpertInputs(
        level, "samora_tiny", base, "b", NAME, pool, plans, settings, targets=folder / "targets", teacher=teacher
    )
    torch.save(base_state(network_on_base(replace(expert_spec(inputs), num_outputs=4), None, 0)), base)
    return run_expert(inputs, source, CONTEXT, file, "d"), file


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Callable[[set[tuple[int, int]]], dict[tuple[int, int], list[int]]]:
    """Makes a slice of some steps (epoch, step) NaN; gives the numbers of the slices of each such step."""

    def poison(steps: set[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
        found: dict[tuple[int, int], list[int]] = {}

        def reading(load: Any, shares: list[list[int]], epoch: int, device: torch.device) -> Iterator[Batch]:
            for number, batch in enumerate(read_batches(load, shares, epoch, device)):
                if (epoch, number) in steps:
                    found[epoch, number] = shares[number]
                    batch["images"] = batch["images"].clone()
                    batch["images"][0] = float("nan")
                yield batch

        monkeypatch.setattr(loop, "read_batches", reading)
        return found

    return poison


@pytest.mark.parametrize("stage", STAGES)
def test_one_bad_step_is_left_out_counted_and_named(
    stage: str,
    plans: Plans,
    tmp_path: Path,
    poisoned: Callable[[set[tuple[int, int]]], dict[tuple[int, int], list[int]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    steps = poisoned({(0, 1)})
    with caplog.at_level(logging.WARNING, logger="samora"):
        history, file = run(stage, plans, tmp_path)
    named = sorted(_SOURCES[plans].keys(steps[0, 1]))
    assert [line["skipped_steps"] for line in history] == [1, 1]
    assert history[0]["skipped_slices"].split() == named
    assert "skipped_slices" not in history[1]
    assert json.loads((file.parent / "log.jsonl").read_text().splitlines()[0]) == history[0]
    assert "step 2 skipped, not finite" in caplog.text
    assert all(name in caplog.text for name in named)
    assert all(bool(value.isfinite().all()) for value in read_weights(file).values())
    card = read_json(PretrainingCard, file.parent / "card.json")
    assert (card.skipped_steps, card.verdict) == (1, "warn")


def test_running_statistics_are_those_of_the_steps_that_count(
    plans: Plans, tmp_path: Path, poisoned: Callable[[set[tuple[int, int]]], dict[tuple[int, int], list[int]]]
) -> None:
    poisoned({(0, 0), (0, 2), (1, 1)})
    _, file = run("teacher_image", plans, tmp_path)
    tensors = load_checkpoint(file).tensors
    counted = {int(value) for name, value in tensors.items() if name.endswith("num_batches_tracked")}
    assert counted == {3}


def test_an_epoch_without_a_finite_step_still_ends_with_a_card(
    plans: Plans, tmp_path: Path, poisoned: Callable[[set[tuple[int, int]]], dict[tuple[int, int], list[int]]]
) -> None:
    poisoned({(1, 0), (1, 1), (1, 2)})
    history, file = run("expert_patch of scratch", plans, tmp_path)
    assert "loss" in history[0]
    assert "loss" not in history[1]
    card = read_json(PretrainingCard, file.parent / "card.json")
    assert {measure.name: measure.value for measure in card.measures}["loss_ratio"] == 1
    assert (file.parent / "card.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_forward_pass_changed_is_put_back() -> None:
    norm, state = nn.BatchNorm1d(2), LoopState()
    skipping = Skipping("stage", dict(norm.named_buffers()).values(), lambda batch: [f"case/{n}" for n in batch])
    norm(torch.rand(4, 2))
    before = {name: value.clone() for name, value in norm.named_buffers()}
    skipping.before_step()
    norm(torch.full((4, 2), float("nan")))
    assert not norm.running_mean.isfinite().any()
    skipping.skip(state, [3, 1], float("nan"), 1.0)
    buffers: dict[str, Tensor] = dict(norm.named_buffers())
    assert all(torch.equal(before[name], value) for name, value in buffers.items())
    assert (state.skipped, state.skipped_slices) == (1, ["case/1", "case/3"])


def test_a_training_counts_as_diverged_after_so_many_in_a_row() -> None:
    state = LoopState()
    skipping = Skipping("stage", [], lambda batch: [str(n) for n in batch])
    for _ in range(PATIENCE - 1):
        skipping.skip(state, [1], 1.0, float("inf"))
    skipping.after_finite_step()
    for _ in range(PATIENCE - 1):
        skipping.skip(state, [2], 1.0, float("inf"))
    with pytest.raises(DataError, match=r"(?s)E-TRAIN-01.*the last with 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"):
        skipping.skip(state, list(range(10)), 1.0, float("inf"))
    assert state.skipped == 2 * PATIENCE - 1
