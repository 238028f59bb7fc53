from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from trainers.planning import RunPlan, plan_run
from trainers.request import Request

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.models.freezing import Part, parameters_by_part
from samora_pipeline.objectives.segmentation import low_resolution, segmentation_loss, stage_weights
from samora_pipeline.paths import resolve_roots
from samora_pipeline.run_log import Line
from samora_pipeline.slices.augmentation import apply_augmentation
from tests.trainers.small_data import make_dataset
from trainers.loop import train
from trainers.stages import finetune
from trainers.stages.finetune import FinetuneInputs, LabelledTask, is_stuck, starting_network
from trainers.stages.stage import StageContext

REQUEST = Request("90", "SAMoraTrainer", "2cases", backbone="samora_tiny", recipe="none")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> RunPlan:
    root = make_dataset(tmp_path_factory.mktemp("finetune"))
    return plan_run(replace(REQUEST, assignments=("finetune.loss_at=decoder",)), resolve_roots(str(root)))


def _inputs(plan: RunPlan, labels: LabelScheme | None = None) -> FinetuneInputs:
    assert plan.base.file is not None
    config = plan.config
    if labels is not None:
        config = replace(config, labels=labels, model=replace(config.model, num_outputs=labels.num_outputs))
    return FinetuneInputs(
        config=config,
        settings=plan.choices.settings.finetune,
        base=plan.base.file,
        experts={},
        slices=plan.dataset.slices,
        parts=frozenset(Part(name) for name in plan.choices.trainer.parts),
    )


def test_the_loss_is_equation_9_at_the_decoders_resolution(plan: RunPlan) -> None:
    inputs = _inputs(plan)
    network = starting_network(inputs, 0)
    task = LabelledTask(inputs, network, 0)
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


def test_the_loss_can_be_taken_at_input_size(plan: RunPlan) -> None:
    inputs = _inputs(plan)
    network = starting_network(inputs, 0)
    batch = LabelledTask(inputs, network, 0).load([0, 1], 0)
    at_input = replace(inputs, settings=replace(inputs.settings, loss_at="input"))
    loss, _ = LabelledTask(at_input, network, 0).loss(batch, 0)
    images, targets = apply_augmentation(batch["images"], batch["targets"], batch["drawn"])
    logits = torch.nn.functional.interpolate(network(images), targets.shape[-2:], mode="bilinear")
    torch.testing.assert_close(loss, segmentation_loss(logits, targets, cross_entropy=0.2, dice=0.8).loss)


def test_half_precision_changes_little(plan: RunPlan) -> None:
    inputs = _inputs(plan)
    task = LabelledTask(inputs, starting_network(inputs, 0), 0)
    batch = task.load([0, 1, 2, 3], 0)
    exact, _ = task.loss(batch, 0)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = task.loss(batch, 0)
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def test_regions_are_trained_one_map_each(plan: RunPlan) -> None:
    inputs = _inputs(plan, LabelScheme({"whole": (1, 2), "hole": (2,)}, region_order=(1, 2)))
    task = LabelledTask(inputs, starting_network(inputs, 0), 0)
    batch = task.load([2, 7], 0)
    assert set(batch["targets"].unique().tolist()) <= {0, 1, 2}
    loss, _ = task.loss(batch, 0)
    assert torch.isfinite(loss)


def test_the_schedule_is_equation_11(plan: RunPlan) -> None:
    settings = replace(plan.choices.settings.finetune, batch=4, epochs=20, warmup=5, steps_per_epoch=None)
    inputs = replace(_inputs(plan), settings=settings)
    training = LabelledTask(inputs, starting_network(inputs, 0), 0).training(lambda: None)
    steps = len(training.batches(0))
    assert steps == 3
    total = 20 * steps
    assert training.learning_rate(1) == pytest.approx(5e-3 / 5)
    assert training.learning_rate(5) == pytest.approx(5e-3)
    assert training.learning_rate(30) == pytest.approx(5e-3 * (1 - 25 / total))
    longer = replace(inputs, settings=replace(settings, schedule_epochs=40))
    training = LabelledTask(longer, starting_network(longer, 0), 0).training(lambda: None)
    assert training.learning_rate(30) == pytest.approx(5e-3 * (1 - 25 / (2 * total)))


def test_the_micro_batch_is_the_plans_unless_set(plan: RunPlan) -> None:
    inputs = _inputs(plan)
    network = starting_network(inputs, 0)
    assert LabelledTask(inputs, network, 0).training(lambda: None).micro_batch == plan.config.plans.batch_size.value
    small = replace(inputs, settings=replace(inputs.settings, micro_batch=2))
    assert LabelledTask(small, network, 0).training(lambda: None).micro_batch == 2


@pytest.fixture(scope="module")
def two_stages(plan: RunPlan) -> RunPlan:
    roots = resolve_roots(str(plan.dataset.raw.folder.parents[1]))
    assignments = ("finetune.loss_at=decoder", "finetune.epochs=30")
    return plan_run(replace(REQUEST, trainer="HSAMoraTrainer", assignments=assignments), roots)


@pytest.mark.parametrize("epoch", [0, 12, 29])
def test_each_stage_of_the_decoder_has_the_loss_of_equation_9(two_stages: RunPlan, epoch: int) -> None:
    inputs = _inputs(two_stages)
    network = starting_network(inputs, 0)
    task = LabelledTask(inputs, network, 0)
    batch = task.load([0, 1, 2, 3], 0)
    torch.manual_seed(4)  # of the decoder's noise
    loss, metrics = task.loss(batch, epoch)
    images, targets = apply_augmentation(batch["images"], batch["targets"], batch["drawn"])
    torch.manual_seed(4)
    low, full = network.stages(images, targets)
    assert full.shape[-2:] == targets.shape[-2:]
    first = segmentation_loss(low, low_resolution(targets, low.shape[-2:]), cross_entropy=0.2, dice=0.8)
    second = segmentation_loss(full, targets, cross_entropy=0.2, dice=0.8)
    weights = stage_weights(2, epoch, 30)
    torch.testing.assert_close(loss, weights[0] * first.loss + weights[1] * second.loss)
    torch.testing.assert_close(metrics["stage_1_loss"], first.loss.detach())
    torch.testing.assert_close(metrics["stage_2_loss"], second.loss.detach())
    assert loss.item() == pytest.approx(0.2 * float(metrics["cross_entropy"]) + 0.8 * float(metrics["dice_loss"]))
    assert not any(value.requires_grad for value in metrics.values())


def test_an_accumulated_batch_has_the_mean_gradient_of_its_parts(plan: RunPlan, tmp_path: Path) -> None:
    """Batch 6 on a device that holds 4: two parts of 3, Dice one per part, cross-entropy that of the whole batch."""
    inputs = _inputs(plan)
    settings = replace(inputs.settings, batch=6, micro_batch=4, epochs=1, steps_per_epoch=1, clip_norm=None)
    inputs = replace(inputs, settings=settings)
    network = starting_network(inputs, 0)
    seen: list[dict[str, torch.Tensor]] = []
    training = LabelledTask(inputs, network, 0).training(lambda: seen.append(_gradients(network)))
    (batch,) = training.batches(0)
    assert len(batch) == 6
    parts = []
    for indices in (batch[:3], batch[3:]):
        network.zero_grad()
        loss, metrics = training.loss(training.load(indices, 0), 0)
        loss.backward()
        parts.append((_gradients(network), metrics["cross_entropy"]))
    _, metrics = training.loss(training.load(batch, 0), 0)
    history = train(training, StageContext(torch.device("cpu"), 0, "").circumstances("finetune", tmp_path, "d" * 64))
    for name, gradient in seen[0].items():
        torch.testing.assert_close(gradient, (parts[0][0][name] + parts[1][0][name]) / 2, msg=name)
    assert history[0]["cross_entropy"] == pytest.approx(float(metrics["cross_entropy"]), rel=1e-5)


def _gradients(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_the_fusion_learns_at_its_share_of_the_rate(plan: RunPlan) -> None:
    inputs = _inputs(plan)
    inputs = replace(inputs, settings=replace(inputs.settings, fusion_rate=0.25))
    network = starting_network(inputs, 0)
    optimizer = LabelledTask(inputs, network, 0).training(lambda: None).optimizer
    fusion = {id(parameter) for parameter in parameters_by_part(network)[Part.FUSION].values()}
    rates = {id(p): group["rate"] for group in optimizer.param_groups for p in group["params"]}
    assert fusion <= rates.keys()
    assert {rates[name] for name in fusion} == {0.25}
    assert {rate for name, rate in rates.items() if name not in fusion} == {1.0}


@pytest.mark.parametrize(
    ("dice_loss", "gradient_norm", "stuck"),
    [(0.79, 0.04, True), (0.61, 0.5, False), (0.1, 0.04, False)],
)
def test_a_training_that_rests_far_from_the_labels_is_stuck(
    dice_loss: float, gradient_norm: float, stuck: bool
) -> None:
    first: Line = {"dice_loss": 0.9, "gradient_norm": 1.3}
    assert is_stuck([first, {"dice_loss": dice_loss, "gradient_norm": gradient_norm}]) is stuck
    assert not is_stuck([])


@pytest.mark.parametrize("fused", [True, False])
def test_a_stuck_training_ends_with_advice_that_fits_its_model(
    fused: bool, plan: RunPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line: Line = {"dice_loss": 0.79, "gradient_norm": 0.04}
    monkeypatch.setattr(finetune, "train", lambda training, where: [line])
    inputs = _inputs(plan)
    inputs = replace(inputs, settings=replace(inputs.settings, fusion_rate=0.1))
    if not fused:
        model = replace(inputs.config.model, levels=(Level.PIXEL,))
        inputs = replace(inputs, config=replace(inputs.config, model=model))
    context = StageContext(torch.device("cpu"), 0, "samora_train")
    finetune.run_finetune(inputs, context, tmp_path, "0" * 64)
    assert ("--set finetune.fusion_rate=0.01" in caplog.text) is fused
    assert "--set finetune.learning_rate=0.0005" in caplog.text
