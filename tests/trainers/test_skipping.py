"""Steps that are not finite, in every stage without labels: left out, counted, named, and without any trace."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.contracts.monitoring import MonitoringReport
from samora_pipeline.errors import DataError
from samora_pipeline.paths import resolve_roots
from samora_pipeline.run_log import Line
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.sam_checkpoint import base_state
from tests.trainers.small_data import make_dataset
from trainers.loop import loop
from trainers.loop.loading import Batch, read_batches
from trainers.loop.session import PATIENCE, LoopState, Skipping
from trainers.runs.planning import plan_run
from trainers.runs.request import Request
from trainers.settings import BOOTSTRAP
from trainers.stages.encoder import network_on_base
from trainers.stages.experts import expert_spec
from trainers.stages.stage import run_stage

SHORT = {"epochs": 2, "batch": 5, "steps_per_epoch": 3}
STAGES = (
    "bootstrap of scratch",
    "teacher_image of full",
    "teacher_patch of full",
    "expert_image of scratch",
    "expert_patch of scratch",
    "expert_image of nocpt",
    "expert_patch of nocpt",
    "expert_pixel of full",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("skipping"))


@dataclass(frozen=True)
class Trained:
    """``lines`` of its log by epoch, the ``file`` of its result, and the names of slices by number."""

    lines: list[Line]
    file: Path
    keys: Callable[[list[int]], list[str]]


def run(stage: str, root: Path, results: Path) -> Trained:
    """Train a stage for two epochs of three steps, experts on a random base."""
    name, _, recipe = stage.partition(" of ")
    assignments = tuple(f"{name}.{setting}={value}" for setting, value in SHORT.items())
    request = Request(
        "90",
        "SAMoraTrainer",
        "2cases",
        recipe=recipe,
        backbone="samora_tiny",
        backbone_weights="bootstrap",
        assignments=assignments,
    )
    planned = plan_run(request, replace(resolve_roots(str(root)), results=results))
    config, context = planned.config, planned.context
    if name.startswith("expert"):
        base = context.stages[BOOTSTRAP].result(context)
        base.parent.mkdir(parents=True)
        network = network_on_base(replace(expert_spec(config, Level.PATCH), num_outputs=4), None, 0)
        save_file(base_state(network), base)
    run_stage(context.stages[name], config, context, context.stages[name].digest)
    file = context.stages[name].result(context)
    return Trained(
        [json.loads(line) for line in (file.parent / "log.jsonl").read_text().splitlines()], file, context.source.keys
    )


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
    root: Path,
    tmp_path: Path,
    poisoned: Callable[[set[tuple[int, int]]], dict[tuple[int, int], list[int]]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    steps = poisoned({(0, 1)})
    with caplog.at_level(logging.WARNING, logger="samora"):
        trained = run(stage, root, tmp_path)
    lines, file = trained.lines, trained.file
    named = sorted(trained.keys(steps[0, 1]))
    assert len(named) == 5
    assert [line["skipped_steps"] for line in lines] == [1, 1]
    assert lines[0]["skipped_slices"].split() == named
    assert "skipped_slices" not in lines[1]
    assert "step 2 skipped, not finite" in caplog.text
    assert all(name in caplog.text for name in named)
    assert all(bool(value.isfinite().all()) for value in read_weights(file).values())
    report = read_json(MonitoringReport, file.parent / "monitoring.json")
    assert (report.skipped_steps, report.verdict) == (1, "warn")


def test_running_statistics_are_those_of_the_steps_that_count(
    root: Path, tmp_path: Path, poisoned: Callable[[set[tuple[int, int]]], dict[tuple[int, int], list[int]]]
) -> None:
    poisoned({(0, 0), (0, 2), (1, 1)})
    tensors = load_checkpoint(run("teacher_image of full", root, tmp_path).file).tensors
    counted = {int(value) for name, value in tensors.items() if name.endswith("num_batches_tracked")}
    assert counted == {3}


def test_an_epoch_without_a_finite_step_still_ends_with_a_monitoring_report(
    root: Path, tmp_path: Path, poisoned: Callable[[set[tuple[int, int]]], dict[tuple[int, int], list[int]]]
) -> None:
    poisoned({(1, 0), (1, 1), (1, 2)})
    trained = run("expert_patch of scratch", root, tmp_path)
    file = trained.file
    assert "loss" in trained.lines[0]
    assert "loss" not in trained.lines[1]
    report = read_json(MonitoringReport, file.parent / "monitoring.json")
    assert {measure.name: measure.value for measure in report.measures}["loss_ratio"] == 1
    assert (file.parent / "monitoring.png").read_bytes().startswith(b"\x89PNG")


def test_what_a_forward_pass_changed_is_put_back() -> None:
    norm, state = nn.BatchNorm1d(2), LoopState()
    skipping = Skipping("stage", dict(norm.named_buffers()).values(), lambda batch: [f"case/{n}" for n in batch])
    norm(torch.rand(4, 2))
    before = {name: value.clone() for name, value in norm.named_buffers()}
    skipping.before_step()
    norm(torch.full((4, 2), float("nan")))
    assert norm.running_mean is not None
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
    with pytest.raises(DataError) as caught:
        skipping.skip(state, list(range(10)), 1.0, float("inf"))
    assert caught.value.code == "E-TRAIN-01"
    assert "0, 1, 2, 3, 4, 5, 6, 7 and 2 more" in caught.value.found
    assert state.skipped == 2 * PATIENCE - 1
