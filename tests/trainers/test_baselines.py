"""AutoSAM and SAM-Adapter as trainers: recipes, rates, and what of them learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from samora_pipeline.errors import UsageError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.freezing import Part, account, freeze
from samora_pipeline.paths import resolve_roots
from tests.trainers.small_data import make_dataset
from trainers.finetune_settings import FinetuneSettings
from trainers.loop.loop import Training
from trainers.methods import TRAINERS
from trainers.runs.choices import choose_method, network_spec
from trainers.runs.planning import plan_run
from trainers.runs.request import Request
from trainers.settings import FINETUNE
from trainers.stages.finetune import Finetune
from trainers.stages.labelled import LabelledTask


def settings(name: str) -> FinetuneSettings:
    return TRAINERS.get(name).finetune


def test_recipes_are_those_of_their_codes() -> None:
    autosam, adapter = settings("AutoSAMTrainer"), settings("SAMAdapterTrainer")
    assert (autosam.epochs, autosam.batch, autosam.learning_rate, autosam.weight_decay) == (120, 4, 5e-4, 0.0)
    assert (adapter.epochs, adapter.batch, adapter.learning_rate, adapter.weight_decay) == (20, 8, 2e-4, 0.01)
    for both in (autosam, adapter):
        assert both.cross_entropy == both.dice
        assert (both.loss_at, both.warmup) == ("input", 0)


@pytest.mark.parametrize(
    ("name", "learning"),
    [
        ("AutoSAMTrainer", {Part.DECODER: 3_649_440}),
        ("SAMAdapterTrainer", {Part.BLOCK_ADAPTERS: 63_312, Part.DECODER: 4_759_945, Part.PROMPT: 256}),
    ],
)
def test_what_learns_on_vit_b(name: str, learning: dict[Part, int]) -> None:
    spec = network_spec(choose_method(Request("1", name, "full")), input_size=224, channels=1, num_outputs=9)
    assert (spec.backbone, spec.levels) == ("sam_vit_b", ())
    with torch.device("meta"):
        network = build_network(spec)
    freeze(network, frozenset(map(Part, settings(name).learns)))
    counts = account(network)
    assert {part: trained for part, (trained, _) in counts.items() if trained} == learning
    assert counts[Part.BASE] == (0, 86_624_512)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("baselines"))


def training(root: Path, name: str) -> Training:
    """Stage 2 on a tiny backbone with the full-size settings, ten epochs of four steps."""
    plan = plan_run(Request("90", name, "2cases", backbone="samora_tiny"), resolve_roots(str(root)))
    short = replace(settings(name), epochs=10, batch=2, steps_per_epoch=4)
    stage = plan.context.stages[FINETUNE]
    assert isinstance(stage, Finetune)
    network = stage.network(plan.config, plan.context)
    freeze(network, frozenset({Part.DECODER}))
    return LabelledTask(plan.config, short, network, plan.context.dataset.slices, 0).training()


def test_autosams_rate_stays(root: Path) -> None:
    rate = training(root, "AutoSAMTrainer").learning_rate
    assert [rate(step) for step in (1, 20, 40)] == [5e-4] * 3


def test_sam_adapters_rate_is_half_a_cosine(root: Path) -> None:
    rate = training(root, "SAMAdapterTrainer").learning_rate
    assert rate(20) == pytest.approx(1e-4)
    assert rate(10) == pytest.approx(2e-4 * (1 + 2**-0.5) / 2)
    assert rate(40) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["AutoSAMTrainer", "SAMAdapterTrainer"])
def test_both_belong_to_the_family_of_sam(root: Path, name: str) -> None:
    request = Request("90", name, "2cases", backbone="samora2_tiny", backbone_weights="bootstrap")
    with pytest.raises(UsageError, match="E-MODEL-06"):
        plan_run(request, resolve_roots(str(root)))
