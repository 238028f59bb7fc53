"""The stages one by one, on a network that is small enough to be looked into."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level, ModelSpec
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.errors import DataError
from samora_pipeline.models.assembly import expert_state
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.freezing import Part, freeze
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.paths import resolve_roots
from samora_pipeline.slices.datasets import SliceId, SliceSource
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.sam_checkpoint import base_state
from tests.trainers.small_data import DEPTH, INPUT, NAME, TRAIN, make_dataset
from trainers.loop.pretraining import Objective, pretraining
from trainers.recipes import CONTRASTIVE, DENOISING, MASKED
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request
from trainers.settings import BOOTSTRAP, EXPERT_PATCH
from trainers.stages import experts
from trainers.stages.encoder import network_on_base
from trainers.stages.experts import expert_spec, read_expert, rehearse
from trainers.stages.objectives import ImageObjective, PatchObjective, PixelObjective
from trainers.stages.stage import run_stage

BOTH = ("samora_tiny", "samora2_tiny")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def folder(root: Path) -> Path:
    return root / "preprocessed" / NAME


@pytest.fixture(scope="module")
def plans(folder: Path) -> Plans:
    return read_json(Plans, folder / PLANS_FILE)


@pytest.fixture(scope="module")
def source(folder: Path, plans: Plans) -> SliceSource:
    return SliceSource(
        folder / "slices", [SliceId(case, index) for case in TRAIN[:3] for index in range(DEPTH)], plans, INPUT
    )


def _plan(root: Path, results: Path, backbone: str = "samora_tiny") -> PlannedRun:
    """A run on the balls with short stages, and results of its own."""
    trainer = "SAMora2Trainer" if backbone == "samora2_tiny" else "SAMoraTrainer"
    lengths = {"bootstrap": (1, 2), "expert_patch": (2, 2)}
    assignments = tuple(
        f"{stage}.{name}={value}"
        for stage, (epochs, steps) in lengths.items()
        for name, value in {"epochs": epochs, "batch": 5, "steps_per_epoch": steps}.items()
    )
    request = Request("90", trainer, "2cases", backbone=backbone, backbone_weights="bootstrap", assignments=assignments)
    return plan_run(request, replace(resolve_roots(str(root)), results=results))


def _spec(backbone: str, num_outputs: int, levels: tuple[Level, ...]) -> ModelSpec:
    own_decoder = BACKBONES.get(backbone).own_decoder
    fusion = FusionSpec() if len(levels) > 1 else None
    return ModelSpec(backbone, INPUT, num_outputs, levels=levels, fusion=fusion, decoder=own_decoder, lora_rank=4)


def _network(*levels: Level, backbone: str = "samora_tiny") -> SegmentationNetwork:
    spec = _spec(backbone, 1, levels)
    network = network_on_base(spec, None, 0)
    freeze(network, frozenset({Part.EXPERTS}))
    return network


def _objective(level: Level, source: SliceSource, plans: Plans, network: SegmentationNetwork) -> Objective[Any, Any]:
    if level is Level.IMAGE:
        return ImageObjective(source, plans, CONTRASTIVE, network, 0)
    if level is Level.PATCH:
        return PatchObjective(source, plans, MASKED, network, 0)
    return PixelObjective(source, plans, DENOISING, network, 0)


@pytest.mark.parametrize("backbone", BOTH)
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_drawn_depends_on_slice_and_epoch_alone(
    level: Level, backbone: str, source: SliceSource, plans: Plans
) -> None:
    network = _network(level, backbone=backbone)
    objective = _objective(level, source, plans, network)
    with torch.no_grad():
        first = objective.loss(network, objective.load([0, 1, 2, 3], 5))[0]
        torch.manual_seed(99)
        again = objective.loss(network, objective.load([0, 1, 2, 3], 5))[0]
        later = objective.loss(network, objective.load([0, 1, 2, 3], 6))[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


@pytest.mark.parametrize("backbone", BOTH)
@pytest.mark.parametrize("level", LEVELS)
def test_the_loss_reaches_the_expert_and_only_it(
    level: Level, backbone: str, source: SliceSource, plans: Plans
) -> None:
    network = _network(level, backbone=backbone)
    objective = _objective(level, source, plans, network)
    loss, _ = objective.loss(network, objective.load([0, 1, 2, 3], 0))
    loss.backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in network.named_parameters() if p.requires_grad}
    # B is zero at the start, so it is the part that moves first, in every block.
    blocks = [block.get_parameter(f"experts.{level.value}.v_b") for block in expert_blocks(network).values()]
    used = blocks[:-1] if level is Level.PIXEL else blocks
    assert all(part.grad is not None and bool(part.grad.any()) for part in used)


@pytest.mark.parametrize("backbone", BOTH)
@pytest.mark.parametrize("level", LEVELS)
def test_half_precision_changes_little(level: Level, backbone: str, source: SliceSource, plans: Plans) -> None:
    network = _network(level, backbone=backbone)
    objective = _objective(level, source, plans, network)
    batch = objective.load([0, 1, 2, 3, 4, 5], 0)
    exact, _ = objective.loss(network, batch)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = objective.loss(network, batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


@pytest.mark.parametrize("backbone", BOTH)
@pytest.mark.parametrize("level", LEVELS)
def test_monitors_can_read_what_mixed_precision_gives(
    level: Level, backbone: str, source: SliceSource, plans: Plans
) -> None:
    network = _network(level, backbone=backbone)
    objective = _objective(level, source, plans, network)
    with torch.no_grad():
        exact = objective.examine(network, objective.load([0, 4, 8, 12], -1))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = objective.examine(network, objective.load([0, 4, 8, 12], -1))
    assert mixed.measures.keys() == exact.measures.keys()
    assert all(math.isfinite(value) for value in mixed.measures.values())
    assert float(mixed.loss) == pytest.approx(float(exact.loss), rel=0.02)
    for name, pictures in exact.columns.items():
        # NumPy, which draws them, has no bfloat16.
        assert abs(mixed.columns[name].numpy() - pictures.numpy()).mean() < 0.05, name


def test_the_image_level_starts_near_chance(source: SliceSource, plans: Plans) -> None:
    network = _network(Level.IMAGE)
    objective = _objective(Level.IMAGE, source, plans, network)
    _, metrics = objective.loss(network, objective.load(list(range(6)), 0))
    assert float(metrics["chance"]) == pytest.approx(math.log(11))
    assert 0 <= float(metrics["accuracy"]) <= 1


def test_the_pixel_level_is_measured_against_leaving_the_noise(source: SliceSource, plans: Plans) -> None:
    network = _network(Level.PIXEL)
    objective = _objective(Level.PIXEL, source, plans, network)
    _, metrics = objective.loss(network, objective.load(list(range(6)), 0))
    assert 0 < float(metrics["noisy"]) < 0.2


def test_batches_that_must_not_be_cut_are_all_full(source: SliceSource, plans: Plans) -> None:
    network = _network(Level.IMAGE)
    for settings, sizes in (
        (replace(CONTRASTIVE, batch=4), [4, 4, 4]),
        (replace(CONTRASTIVE, batch=4, steps_per_epoch=2), [4, 4]),
        (replace(CONTRASTIVE, batch=512), [15]),
        (replace(MASKED, batch=4), [4, 4, 4, 3]),
    ):
        training = pretraining(
            "stage",
            network,
            _objective(Level.IMAGE, source, plans, network),
            settings,
            len(source),
            0,
            experts={},
        )
        assert [len(batch) for batch in training.batches(0)] == sizes
        assert training.batches(0) != training.batches(1)


def test_the_rate_warms_up_over_a_twentieth_and_ends_at_zero(source: SliceSource, plans: Plans) -> None:
    network = _network(Level.IMAGE)
    training = pretraining(
        "stage",
        network,
        _objective(Level.IMAGE, source, plans, network),
        replace(CONTRASTIVE, batch=5, epochs=20, learning_rate=1.0),
        len(source),
        0,
        experts={},
    )
    # 20 epochs of 3 steps.
    assert training.learning_rate(1) == pytest.approx(1 / 3)
    assert training.learning_rate(3) == 1.0
    assert training.learning_rate(60) == pytest.approx(0.0)


def test_lora_does_not_decay(source: SliceSource, plans: Plans) -> None:
    network = _network(Level.PATCH)
    experts = {name: p for name, p in network.named_parameters() if p.requires_grad}
    objective = _objective(Level.PATCH, source, plans, network)
    training = pretraining("stage", network, objective, MASKED, 15, 0, experts=experts)
    decay = {id(p): group["weight_decay"] for group in training.optimizer.param_groups for p in group["params"]}
    assert {decay[id(p)] for p in experts.values()} == {0.0}
    assert 0.05 in decay.values()
    assert set(training.parameters) == {f"network.{name}" for name in experts} | {
        f"head.{name}" for name, _ in objective.head.named_parameters()
    }


@pytest.mark.parametrize("backbone", BOTH)
def test_a_bootstrap_trains_the_whole_encoder_and_reads_as_a_base(backbone: str, root: Path, tmp_path: Path) -> None:
    run = _plan(root, tmp_path, backbone)
    stage = run.context.stages[BOOTSTRAP]
    file = stage.result(run.context)
    assert file.relative_to(tmp_path / NAME).parts == ("pretraining", stage.digest[:12], BOOTSTRAP, "base.safetensors")
    run_stage(stage, run.config, run.context, stage.digest)
    state = read_weights(file)
    start = network_on_base(_spec(backbone, 4, ()), None, stage.seed(run.config))
    before = _encoder(base_state(start))
    assert set(_encoder(state)) == set(before)
    assert len(state) > len(before)
    unmoved = [name for name, value in before.items() if torch.equal(state[name], value)]
    assert unmoved == []
    other = network_on_base(_spec(backbone, 3, LEVELS), file, 1)
    assert all(torch.equal(state[name], value) for name, value in _encoder(base_state(other)).items())


def test_an_expert_is_kept_with_its_base_and_refused_on_another(root: Path, tmp_path: Path) -> None:
    run = _plan(root, tmp_path)
    bootstrap, stage = (run.context.stages[name] for name in (BOOTSTRAP, EXPERT_PATCH))
    run_stage(bootstrap, run.config, run.context, bootstrap.digest)
    base, file = bootstrap.result(run.context), stage.result(run.context)
    pool = replace(run.config.pool, cases={NAME: ("case_0", "case_1"), "Dataset005_Other": ("scan",)})
    assert run.config.base is not None
    config = replace(run.config, pool=pool, base=replace(run.config.base, digest="b" * 64))
    assert run_stage(stage, config, run.context, stage.digest).epochs == 2
    assert load_checkpoint(file).record["digest"] == stage.digest
    network = network_on_base(ModelSpec("samora_tiny", INPUT, 3, levels=LEVELS, lora_rank=4), base, 1)
    with pytest.raises(DataError) as caught:
        read_expert(network, Level.PATCH, file, "c" * 64)
    assert (caught.value.code, caught.value.expected) == ("E-EXP-20", "c" * 12)
    for hidden in ("case_1", "Dataset005_Other/scan"):
        with pytest.raises(DataError) as caught:
            read_expert(network, Level.PATCH, file, "b" * 64, {hidden, "case_4"})
        assert (caught.value.code, caught.value.found) == ("E-EXP-21", f"{hidden} in {file}")
    larger = network_on_base(ModelSpec("samora_tiny", 2 * INPUT, 3, levels=LEVELS, lora_rank=4), base, 1)
    with pytest.raises(DataError) as caught:
        read_expert(larger, Level.PATCH, file, "b" * 64)
    assert (caught.value.code, caught.value.found) == ("E-EXP-20", f"{file}: {INPUT}")
    assert caught.value.expected == str(2 * INPUT)
    wider = network_on_base(ModelSpec("samora_tiny", INPUT, 3, levels=LEVELS, lora_rank=8), base, 1)
    with pytest.raises(DataError) as caught:
        read_expert(wider, Level.PATCH, file, "b" * 64)
    assert caught.value.code == "E-EXP-20"
    assert "rank 4" in caught.value.found
    assert "rank 8" in caught.value.expected
    assert not any(value.any() for name, value in expert_state(network, Level.PATCH).items() if name.endswith("_b"))
    read_expert(network, Level.PATCH, file, "b" * 64)
    assert any(value.any() for name, value in expert_state(network, Level.PATCH).items() if name.endswith("_b"))


def test_untrained_experts_are_read_as_fine_tuning_will_before_any_is_trained(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _plan(root, tmp_path).config
    rehearse(run, Level.PATCH)
    seen = replace(run, pool=replace(run.pool, cases={NAME: ("case_1", "case_4")}))
    with pytest.raises(DataError) as caught:
        rehearse(seen, Level.PATCH)
    assert caught.value.code == "E-EXP-21"
    assert caught.value.found.startswith("case_4 in ")
    rehearse(replace(seen, pool=replace(seen.pool, transductive=True)), Level.PATCH)
    # This fold is scored on what it is trained on; the published test set is kept out as ever.
    rehearse(replace(seen, fold="all", pool=replace(seen.pool, excluded=())), Level.PATCH)
    with pytest.raises(DataError, match="E-EXP-21"):
        rehearse(replace(seen, fold="all", pool=replace(seen.pool, excluded=("case_1",))), Level.PATCH)
    for misfit in (
        replace(expert_spec(run, Level.PATCH), lora_rank=8),
        _spec("samora2_tiny", 1, (Level.PATCH,)),
    ):
        monkeypatch.setattr(experts, "expert_spec", lambda run, level, spec=misfit: spec)
        with pytest.raises(DataError, match="E-EXP-20"):
            rehearse(run, Level.PATCH)
    assert not list(tmp_path.iterdir())


def _encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is left of a base without prompt encoder and mask decoder."""
    return {
        name: value for name, value in state.items() if "prompt_encoder." not in name and "mask_decoder." not in name
    }
