from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.models.freezing import Part, freeze, parameters_by_part
from samora_pipeline.models.samora import Network
from samora_pipeline.objectives.segmentation import low_resolution, segmentation_loss, stage_weights
from samora_pipeline.paths import resolve_roots
from samora_pipeline.run_log import Line
from samora_pipeline.slices.augmentation import apply_augmentation
from tests.trainers.small_data import make_dataset
from tests.trainers.toy import loop_context
from trainers.loop.loop import train
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request
from trainers.settings import FINETUNE
from trainers.stages import stage as stages
from trainers.stages.finetune import Finetune, is_stuck
from trainers.stages.labelled import LabelledTask
from trainers.stages.stage import run_stage

REQUEST = Request("90", "SAMoraTrainer", "2cases", backbone="samora_tiny", recipe="none")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> PlannedRun:
    root = make_dataset(tmp_path_factory.mktemp("finetune"))
    return plan_run(replace(REQUEST, assignments=("finetune.loss_at=decoder",)), resolve_roots(str(root)))


def _stage(plan: PlannedRun, **changes: Any) -> Finetune:
    stage: Any = plan.context.stages[FINETUNE]
    changed = replace(stage, settings=replace(stage.settings, **changes))
    assert isinstance(changed, Finetune)
    return changed


def _network(plan: PlannedRun) -> Network:
    """As stage 2 finds it: base and experts read, and all that does not learn frozen."""
    stage = _stage(plan)
    network = stage.network(plan.config, plan.context)
    freeze(network, frozenset(Part(name) for name in stage.settings.learns))
    return network


def _task(plan: PlannedRun, network: Network | None = None, **changes: object) -> LabelledTask:
    settings = _stage(plan, **changes).settings
    return LabelledTask(plan.config, settings, network or _network(plan), plan.context.dataset.slices, 0)


def test_the_loss_is_equation_9_at_the_decoders_resolution(plan: PlannedRun) -> None:
    network = _network(plan)
    task = _task(plan, network)
    batch = task.load([0, 1, 2, 3], 0)
    loss, metrics = task.loss(batch, 0)
    images, targets = apply_augmentation(batch["images"], batch["targets"], batch["drawn"])
    logits = network(images)
    side = targets.shape[-1] // logits.shape[-1]
    # The pixel at the centre of each block stands for it.
    small = targets[:, side // 2 :: side, side // 2 :: side]
    terms = segmentation_loss(logits, small, cross_entropy=0.2, dice=0.8)
    torch.testing.assert_close(loss, terms.loss)
    assert loss.item() == pytest.approx(0.2 * float(metrics["cross_entropy"]) + 0.8 * float(metrics["dice_loss"]))


def test_the_loss_can_be_taken_at_input_size(plan: PlannedRun) -> None:
    network = _network(plan)
    batch = _task(plan, network).load([0, 1], 0)
    loss, _ = _task(plan, network, loss_at="input").loss(batch, 0)
    images, targets = apply_augmentation(batch["images"], batch["targets"], batch["drawn"])
    logits = torch.nn.functional.interpolate(network(images), targets.shape[-2:], mode="bilinear")
    torch.testing.assert_close(loss, segmentation_loss(logits, targets, cross_entropy=0.2, dice=0.8).loss)


def test_half_precision_changes_little(plan: PlannedRun) -> None:
    task = _task(plan)
    batch = task.load([0, 1, 2, 3], 0)
    exact, _ = task.loss(batch, 0)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = task.loss(batch, 0)
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_regions_are_trained_one_map_each(plan: PlannedRun) -> None:
    labels = LabelScheme({"whole": (1, 2), "hole": (2,)}, region_order=(1, 2))
    model = replace(plan.config.model, num_outputs=labels.num_outputs)
    task = _task(replace(plan, config=replace(plan.config, labels=labels, model=model)))
    batch = task.load([2, 7], 0)
    assert set(batch["targets"].unique().tolist()) <= {0, 1, 2}
    loss, _ = task.loss(batch, 0)
    assert torch.isfinite(loss)


def test_the_schedule_is_equation_11(plan: PlannedRun) -> None:
    network, changes = _network(plan), {"batch": 4, "epochs": 20, "warmup": 5, "steps_per_epoch": None}
    training = _task(plan, network, **changes).training()
    steps = len(training.batches(0))
    assert steps == 3
    total = 20 * steps
    assert training.learning_rate(1) == pytest.approx(5e-3 / 5)
    assert training.learning_rate(5) == pytest.approx(5e-3)
    assert training.learning_rate(30) == pytest.approx(5e-3 * (1 - 25 / total))
    training = _task(plan, network, **changes, schedule_epochs=40).training()
    assert training.learning_rate(30) == pytest.approx(5e-3 * (1 - 25 / (2 * total)))


@pytest.fixture(scope="module")
def two_stages(plan: PlannedRun) -> PlannedRun:
    roots = resolve_roots(str(plan.context.dataset.raw.folder.parents[1]))
    assignments = ("finetune.loss_at=decoder", "finetune.epochs=30")
    return plan_run(replace(REQUEST, trainer="HSAMoraTrainer", assignments=assignments), roots)


@pytest.mark.parametrize("epoch", [0, 12, 29])
def test_each_stage_of_the_decoder_has_h_sams_loss(two_stages: PlannedRun, epoch: int) -> None:
    network = _network(two_stages)
    task = _task(two_stages, network)
    batch = task.load([0, 1, 2, 3], 0)
    torch.manual_seed(4)  # of the decoder's noise
    loss, metrics = task.loss(batch, epoch)
    images, targets = apply_augmentation(batch["images"], batch["targets"], batch["drawn"])
    torch.manual_seed(4)
    low, full = network.stages(images, targets)
    assert full.shape[-2:] == targets.shape[-2:]
    side, other = low.shape[-2:]
    first = segmentation_loss(low, low_resolution(targets, (side, other)), cross_entropy=0.1, dice=0.9)
    second = segmentation_loss(full, targets, cross_entropy=0.1, dice=0.9)
    weights = stage_weights(2, epoch, 30)
    torch.testing.assert_close(loss, weights[0] * first.loss + weights[1] * second.loss)
    torch.testing.assert_close(metrics["stage_1_loss"], first.loss.detach())
    torch.testing.assert_close(metrics["stage_2_loss"], second.loss.detach())
    assert loss.item() == pytest.approx(0.1 * float(metrics["cross_entropy"]) + 0.9 * float(metrics["dice_loss"]))
    assert not any(value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("method", ["plan", "two_stages"])
def test_an_accumulated_batch_has_the_gradient_of_the_whole(
    method: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Batch 6 on a device that holds 2: three parts. Measured: gradients of float32 differ by less than 1e-5."""
    chosen: PlannedRun = request.getfixturevalue(method)
    network = _network(chosen)
    seen, lines = [], []
    for micro_batch in (None, 2):
        task = _task(chosen, network, batch=6, micro_batch=micro_batch, epochs=1, steps_per_epoch=1, clip_norm=None)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        training = replace(task.training(), after_first_step=lambda: seen.append(_gradients(network)))
        lines += train(training, loop_context(tmp_path / str(micro_batch)))
        network.load_state_dict(before)
    assert [line["micro_batch"] for line in lines] == [6, 2]
    largest = max(float(gradient.abs().max()) for gradient in seen[0].values())
    assert seen[0].keys() == seen[1].keys()
    for name, gradient in seen[0].items():
        torch.testing.assert_close(seen[1][name], gradient, rtol=1e-3, atol=1e-5 * largest, msg=name)
    for name in ("loss", "cross_entropy", "dice_loss", "gradient_norm"):
        assert lines[1][name] == pytest.approx(lines[0][name], rel=1e-5)


def _gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_the_fusion_learns_at_its_share_of_the_rate(plan: PlannedRun) -> None:
    network = _network(plan)
    optimizer = _task(plan, network, fusion_rate=0.25).training().optimizer
    fusion = {id(parameter) for parameter in parameters_by_part(network)[Part.FUSION].values()}
    rates = {id(p): group["rate"] for group in optimizer.param_groups for p in group["params"]}
    assert fusion <= rates.keys()
    assert {rates[name] for name in fusion} == {0.25}
    assert {rate for name, rate in rates.items() if name not in fusion} == {1.0}


@pytest.mark.parametrize(
    ("dice_loss", "gradient_norm", "stuck"),
    [(0.79, 0.04, True), (0.61, 0.5, False), (0.1, 0.04, False)],
)
def test_a_training_that_collapsed_to_background_is_stuck(dice_loss: float, gradient_norm: float, stuck: bool) -> None:
    first: Line = {"dice_loss": 0.9, "gradient_norm": 1.3}
    assert is_stuck([first, {"dice_loss": dice_loss, "gradient_norm": gradient_norm}]) is stuck
    assert not is_stuck([])


@pytest.mark.parametrize("fused", [True, False])
def test_a_stuck_training_ends_with_advice_that_fits_its_model(
    fused: bool, plan: PlannedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line: Line = {"dice_loss": 0.79, "gradient_norm": 0.04, "seconds": 1.0, "memory_gib": 1.0}
    monkeypatch.setattr(stages, "train", lambda training, where: [line])
    config = plan.config
    if not fused:
        assert isinstance(config.model, ModelSpec)
        config = replace(config, model=replace(config.model, levels=(Level.PIXEL,), fusion=None))
    run_stage(_stage(plan, fusion_rate=0.1), config, replace(plan.context, folder=tmp_path), "0" * 64)
    assert ("--set finetune.fusion_rate=0.01" in caplog.text) is fused
    assert "--set finetune.learning_rate=0.0005" in caplog.text
