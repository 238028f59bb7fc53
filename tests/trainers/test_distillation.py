from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.errors import UsageError
from samora_pipeline.models.catalog import BACKBONES, TEACHERS
from samora_pipeline.models.freezing import Part, freeze
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.models.teachers.teacher import Teacher
from samora_pipeline.slices.datasets import SliceId, SliceSource
from tests.trainers.small_data import DEPTH, INPUT, NAME, TRAIN, make_dataset
from trainers.recipes import DISTILLED_IMAGE, DISTILLED_PATCH
from trainers.settings import DistillationSettings
from trainers.stages.distillation import DistillationObjective, _first_component
from trainers.stages.encoder import network_on_base
from trainers.stages.objectives import view_of

CPU = torch.device("cpu")
NETWORKS = {Level.IMAGE: "simclr_tiny", Level.PATCH: "mae_tiny"}
DEFAULTS = {Level.IMAGE: DISTILLED_IMAGE, Level.PATCH: DISTILLED_PATCH}


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Plans:
    folder = make_dataset(tmp_path_factory.mktemp("distil")) / "preprocessed" / NAME
    plans = read_json(Plans, folder / PLANS_FILE)
    for size in (INPUT, 2 * INPUT):
        ids = [SliceId(case, i) for case in TRAIN[:3] for i in range(DEPTH)]
        _SOURCES[size] = SliceSource(folder / "slices", ids, plans, size)
    return plans


_SOURCES: dict[int, SliceSource] = {}
"""by input size"""


def _teacher(level: Level) -> Teacher:
    torch.manual_seed(1)
    teacher = TEACHERS.get(NETWORKS[level]).build(INPUT)
    # Away from the start, where the last norms of a ResNet are zero.
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    teacher.freeze()
    return teacher


def _network(level: Level, backbone: str = "samora_tiny", size: int = INPUT) -> SegmentationNetwork:
    decoder = BACKBONES.get(backbone).own_decoder
    network = network_on_base(
        ModelSpec(backbone, size, 1, levels=(level,), fusion=None, decoder=decoder, lora_rank=4), None, 0
    )
    freeze(network, frozenset({Part.EXPERTS}))
    return network


def _objective(
    level: Level, settings: DistillationSettings, plans: Plans, network: SegmentationNetwork
) -> DistillationObjective:
    torch.manual_seed(2)
    source, teacher = _SOURCES[network.input_size], _teacher(level)
    objective = DistillationObjective(source, plans, settings, network, 0, teacher=teacher, level=level.value)
    objective.prepare(CPU)
    return objective


@pytest.mark.parametrize("backbone", ["samora_tiny", "samora2_tiny"])
@pytest.mark.parametrize("level", list(NETWORKS))
def test_only_lora_and_projector_learn_and_the_teacher_stays(level: Level, backbone: str, plans: Plans) -> None:
    network = _network(level, backbone)
    objective = _objective(level, DEFAULTS[level], plans, network)
    teacher = objective._teacher
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    loss, metrics = objective.loss(network, objective.load([0, 1, 2, 3], 0))
    loss.backward()
    assert {name for name, p in network.named_parameters() if p.grad is not None} == {
        name for name, p in network.named_parameters() if p.requires_grad
    }
    assert all(p.grad is not None for p in objective.head.parameters())
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert -1 <= float(metrics["cosine"]) <= 1


def test_the_patch_loss_is_that_of_normalised_tokens_in_the_same_order(plans: Plans) -> None:
    network = _network(Level.PATCH)
    objective = _objective(Level.PATCH, DISTILLED_PATCH, plans, network)
    batch = objective.load([0, 3], 0)
    with torch.no_grad():
        loss, _ = objective.loss(network, batch)
    images = view_of(batch)
    tokens = objective._teacher.features(images, "tokens")
    target = functional.layer_norm(tokens, tokens.shape[-1:])
    (own,) = network.image_encoder.forward_tokens(network.to_rgb(images), (network.image_encoder.depth,))
    prediction = objective.head.projector.projector(functional.layer_norm(own, own.shape[-1:]))
    assert float(loss) == pytest.approx(float((prediction - target).detach().square().mean()), rel=1e-5)


def test_the_image_target_is_standardised_over_the_pool(plans: Plans) -> None:
    network = _network(Level.IMAGE)
    objective = _objective(Level.IMAGE, DISTILLED_IMAGE, plans, network)
    everything = list(range(15))
    # The views that the statistics were fitted on.
    features = objective._teacher.features(view_of(objective.load(everything, -2)), "pooled")
    mean, std = features.mean(dim=0), features.std(dim=0, correction=0)
    batch = objective.load(everything, 0)
    _, target, _ = objective._compare(network, batch)
    raw = objective._teacher.features(view_of(batch), "pooled")
    flat = std <= 1e-6 * mean.abs().clamp(min=1e-6)
    torch.testing.assert_close(target[:, ~flat], ((raw - mean) / std)[:, ~flat], rtol=1e-3, atol=1e-3)


def test_hidden_patches_are_compared_at_the_visible_places(plans: Plans) -> None:
    network = _network(Level.PATCH)
    objective = _objective(Level.PATCH, replace(DISTILLED_PATCH, masked_share=0.75), plans, network)
    prediction, target, _ = objective._compare(network, objective.load([0, 1], 0))
    assert prediction.shape == target.shape == (2, 4, 96)
    objective.loss(network, objective.load([0, 1], 0))[0].backward()
    assert objective.head.mask_token is not None
    assert objective.head.mask_token.grad is not None


@pytest.mark.parametrize(("level", "backbone"), [(Level.IMAGE, "samora_tiny"), (Level.PATCH, "samora2_tiny")])
def test_patches_cannot_be_hidden_everywhere(level: Level, backbone: str, plans: Plans) -> None:
    settings = replace(DEFAULTS[level], masked_share=0.5)
    with pytest.raises(UsageError, match="E-DISTIL-01"):
        _objective(level, settings, plans, _network(level, backbone))


def test_the_first_direction_is_that_of_the_singular_value_decomposition() -> None:
    target, prediction = torch.randn(3, 4, 4, 10), torch.randn(3, 4, 4, 10)
    rows = target.view(-1, 10).double()
    direction = torch.linalg.svd(rows - rows.mean(dim=0)).Vh[0]
    values, others = ((part.double() - rows.mean(dim=0)) @ direction for part in (target, prediction))
    low, high = values.min(), values.max()
    first, second = _first_component(target, prediction)
    expected = [(part - low) / (high - low) for part in (values, others)]
    if not torch.allclose(first, expected[0]):
        expected = [1 - part for part in expected]  # the direction has no sign
    torch.testing.assert_close([first, second], expected)
    # On CUDA there is no eigendecomposition of what a product gives under autocast.
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(_first_component(target, prediction)[0], first)


@pytest.mark.parametrize("level", list(NETWORKS))
def test_mixed_precision_shows_what_full_precision_shows(level: Level, plans: Plans) -> None:
    network = _network(level)
    objective = _objective(level, DEFAULTS[level], plans, network)
    with torch.no_grad():
        exact = objective.examine(network, objective.load(list(range(8)), -1))
        with torch.autocast("cpu", torch.bfloat16):
            mixed = objective.examine(network, objective.load(list(range(8)), -1))
    assert float(mixed.loss) == pytest.approx(float(exact.loss), rel=0.05)
    for name, value in exact.measures.items():
        assert mixed.measures[name] == pytest.approx(value, abs=0.05), name
    for name, pictures in exact.columns.items():
        # NumPy, which draws them, has no bfloat16.
        difference = mixed.columns[name].numpy() - pictures.numpy()
        assert min(abs(difference).mean(), abs(mixed.columns[name].numpy() - 1 + pictures.numpy()).mean()) < 0.1, name


def test_the_student_is_compared_with_its_teacher(plans: Plans) -> None:
    network = _network(Level.PATCH)
    objective = _objective(Level.PATCH, DISTILLED_PATCH, plans, network)
    with torch.no_grad():
        shown = objective.examine(network, objective.load(list(range(8)), -1))
    assert list(shown.columns) == ["original", "teacher", "student", "error"]
    grids: dict[str, Tensor] = dict(shown.columns)
    assert grids["teacher"].shape == grids["student"].shape == grids["error"].shape == (8, 4, 4)
    assert grids["original"].shape == (8, INPUT, INPUT)
    assert all(0 <= float(value.min()) <= float(value.max()) <= 1 for value in grids.values())
    assert 0 <= shown.measures["teacher_similarity"] <= 1
    assert shown.measures["explained"] < 1
