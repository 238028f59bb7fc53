"""The stages one by one, on a network that is small enough to be looked into."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from trainers.config import Settings
from trainers.pretraining_config import BootstrapSettings, ImageSettings, PatchSettings, PixelSettings
from trainers.stages.image import ImageObjective
from trainers.stages.pixel import PixelObjective
from trainers.stages.pretraining import Objective, pretraining

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level, ModelSpec
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.contracts.run import PoolRecord
from samora_pipeline.errors import DataError
from samora_pipeline.models.assembly import expert_state
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.freezing import Part, freeze
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.slices.datasets import SliceId, SliceSource
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.sam_checkpoint import base_state
from tests.trainers.small_data import DEPTH, INPUT, NAME, TRAIN, make_dataset
from trainers.stages.bootstrap import run_bootstrap
from trainers.stages.experts import ExpertInputs, read_expert, rehearse, run_expert
from trainers.stages.patch import PatchObjective
from trainers.stages.stage import StageContext, network_on_base

BOTH = ("samora_tiny", "samora2_tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("stages")) / "preprocessed" / NAME


@pytest.fixture(scope="module")
def plans(folder: Path) -> Plans:
    return read_json(Plans, folder / PLANS_FILE)


@pytest.fixture(scope="module")
def source(folder: Path, plans: Plans) -> SliceSource:
    return SliceSource(folder / "slices", [SliceId(case, index) for case in TRAIN[:3] for index in range(DEPTH)], plans)


@pytest.fixture
def context() -> StageContext:
    return StageContext(torch.device("cpu"), 0, "samora_train -c")


def _spec(backbone: str, num_outputs: int, levels: tuple[Level, ...]) -> ModelSpec:
    own_decoder = BACKBONES.get(backbone).own_decoder
    fusion = FusionSpec() if len(levels) > 1 else None
    return ModelSpec(backbone, INPUT, num_outputs, levels=levels, fusion=fusion, decoder=own_decoder, lora_rank=4)


def _network(*levels: Level, backbone: str = "samora_tiny") -> SegmentationNetwork:
    spec = _spec(backbone, 1, levels)
    network = network_on_base(spec, None, 0)
    freeze(network, frozenset({Part.EXPERTS}))
    return network


def _objective(level: Level, source: SliceSource, plans: Plans, network: SegmentationNetwork) -> Objective:
    encoder = network.image_encoder
    if level is Level.IMAGE:
        return ImageObjective(source, plans, ImageSettings(), encoder.shapes[-1].width, 0)
    if level is Level.PATCH:
        return PatchObjective(source, plans, PatchSettings(), encoder, 0)
    return PixelObjective(source, plans, PixelSettings(), encoder, 0)


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
    blocks = [block.experts[level.value] for block in network.image_encoder.blocks]
    used = blocks[:-1] if level is Level.PIXEL else blocks
    assert all(bool(expert.v_b.grad.any()) for expert in used)


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
        (ImageSettings(batch=4), [4, 4, 4]),
        (ImageSettings(batch=4, steps_per_epoch=2), [4, 4]),
        (ImageSettings(batch=512), [15]),
        (PatchSettings(batch=4), [4, 4, 4, 3]),
    ):
        training = pretraining(
            "stage",
            network,
            _objective(Level.IMAGE, source, plans, network),
            settings,
            len(source),
            0,
            experts={},
            after_first_step=lambda: None,
        )
        assert [len(batch) for batch in training.batches(0)] == sizes
        assert training.batches(0) != training.batches(1)


def test_the_rate_warms_up_over_a_twentieth_and_ends_at_zero(source: SliceSource, plans: Plans) -> None:
    network = _network(Level.IMAGE)
    training = pretraining(
        "stage",
        network,
        _objective(Level.IMAGE, source, plans, network),
        ImageSettings(batch=5, epochs=20, learning_rate=1.0),
        len(source),
        0,
        experts={},
        after_first_step=lambda: None,
    )
    # 20 epochs of 3 steps.
    assert training.learning_rate(1) == pytest.approx(1 / 3)
    assert training.learning_rate(3) == 1.0
    assert training.learning_rate(60) == pytest.approx(0.0)


def test_lora_does_not_decay(source: SliceSource, plans: Plans) -> None:
    network = _network(Level.PATCH)
    experts = {name: p for name, p in network.named_parameters() if p.requires_grad}
    objective = _objective(Level.PATCH, source, plans, network)
    training = pretraining(
        "stage", network, objective, PatchSettings(), 15, 0, experts=experts, after_first_step=lambda: None
    )
    decay = {id(p): group["weight_decay"] for group in training.optimizer.param_groups for p in group["params"]}
    assert {decay[id(p)] for p in experts.values()} == {0.0}
    assert 0.05 in decay.values()
    assert set(training.parameters) == {f"network.{name}" for name in experts} | {
        f"head.{name}" for name, _ in objective.head.named_parameters()
    }


@pytest.mark.parametrize("backbone", BOTH)
def test_a_bootstrap_trains_the_whole_encoder_and_reads_as_a_base(
    backbone: str, source: SliceSource, plans: Plans, context: StageContext, tmp_path: Path
) -> None:
    settings = BootstrapSettings(epochs=1, batch=5, steps_per_epoch=2, micro_batch=None)
    file = tmp_path / "key" / "bootstrap" / "base.safetensors"
    run_bootstrap(backbone, source, plans, settings, context, file, "d" * 64)
    state = read_weights(file)
    start = network_on_base(_spec(backbone, 4, ()), None, context.stage_seed("bootstrap"))
    before = _encoder(base_state(start))
    assert set(_encoder(state)) == set(before)
    assert len(state) > len(before)
    unmoved = [name for name, value in before.items() if torch.equal(state[name], value)]
    assert unmoved == []
    other = network_on_base(_spec(backbone, 3, LEVELS), file, 1)
    assert all(torch.equal(state[name], value) for name, value in _encoder(base_state(other)).items())


def test_an_expert_is_kept_with_its_base_and_refused_on_another(
    source: SliceSource, plans: Plans, context: StageContext, tmp_path: Path
) -> None:
    base = tmp_path / "base.safetensors"
    run_bootstrap(
        "samora_tiny",
        source,
        plans,
        BootstrapSettings(epochs=1, batch=5, steps_per_epoch=1, micro_batch=None),
        context,
        base,
        "d" * 64,
    )
    settings = Settings(expert_patch=PatchSettings(epochs=2, batch=5, steps_per_epoch=2, micro_batch=None))
    pool = PoolRecord({NAME: ("case_0", "case_1"), "Dataset005_Other": ("scan",)}, ())
    inputs = ExpertInputs(
        Level.PATCH, "samora_tiny", base, "b" * 64, NAME, pool, plans, settings, targets=tmp_path / "targets"
    )
    file = tmp_path / "key" / "expert_patch" / "expert.safetensors"
    history = run_expert(inputs, source, context, file, "d" * 64)
    assert len(history) == 2
    network = network_on_base(ModelSpec("samora_tiny", INPUT, 3, levels=LEVELS, lora_rank=4), base, 1)
    with pytest.raises(DataError, match=r"(?s)E-EXP-20.*another base"):
        read_expert(network, Level.PATCH, file, "c" * 64)
    for hidden in ("case_1", "Dataset005_Other/scan"):
        with pytest.raises(DataError, match=rf"(?s)E-EXP-21.*scans that are scored here.*{hidden}"):
            read_expert(network, Level.PATCH, file, "b" * 64, {hidden, "case_4"})
    larger = network_on_base(ModelSpec("samora_tiny", 2 * INPUT, 3, levels=LEVELS, lora_rank=4), base, 1)
    with pytest.raises(DataError, match=rf"(?s)E-EXP-20.*input size.*{INPUT}.*{2 * INPUT}"):
        read_expert(larger, Level.PATCH, file, "b" * 64)
    wider = network_on_base(ModelSpec("samora_tiny", INPUT, 3, levels=LEVELS, lora_rank=8), base, 1)
    with pytest.raises(DataError, match=r"(?s)E-EXP-20.*rank 4.*rank 8"):
        read_expert(wider, Level.PATCH, file, "b" * 64)
    assert not any(value.any() for name, value in expert_state(network, Level.PATCH).items() if name.endswith("_b"))
    read_expert(network, Level.PATCH, file, "b" * 64)
    assert any(value.any() for name, value in expert_state(network, Level.PATCH).items() if name.endswith("_b"))


def _inputs(plans: Plans, folder: Path) -> ExpertInputs:
    pool = PoolRecord({NAME: ("case_0", "case_1")}, ())
    return ExpertInputs(Level.PATCH, "samora_tiny", folder, "b" * 64, NAME, pool, plans, Settings(), targets=folder)


def test_untrained_experts_go_through_the_door_of_fine_tuning_first(plans: Plans, tmp_path: Path) -> None:
    rehearse(_inputs(plans, tmp_path), _spec("samora_tiny", 3, LEVELS), {"case_4"})
    misfits = {
        r"(?s)E-EXP-20.*rank 4.*rank 8": ModelSpec("samora_tiny", INPUT, 3, levels=LEVELS, lora_rank=8),
        r"(?s)E-EXP-20.*another input size": ModelSpec("samora_tiny", 2 * INPUT, 3, levels=LEVELS, lora_rank=4),
        "E-EXP-20": _spec("samora2_tiny", 3, LEVELS),
    }
    for message, spec in misfits.items():
        with pytest.raises(DataError, match=message):
            rehearse(_inputs(plans, tmp_path), spec, ())
    with pytest.raises(DataError, match=r"(?s)E-EXP-21.*case_1"):
        rehearse(_inputs(plans, tmp_path), _spec("samora_tiny", 3, LEVELS), {"case_1"})
    assert not list(tmp_path.iterdir())


def _encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is left of a base without prompt encoder and mask decoder."""
    return {
        name: value for name, value in state.items() if "prompt_encoder." not in name and "mask_decoder." not in name
    }
