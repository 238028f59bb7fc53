"""The contract that every registered trainer meets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samora_pipeline.contracts.level import LEVELS
from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.backbones.catalog import BACKBONES
from samora_pipeline.models.freezing import Part, account, freeze
from trainers.catalog import TRAINERS
from trainers.request import choose_levels, choose_recipe
from trainers.trainer import NO_PRETRAINING, SCRATCH, Trainer


def _spec(trainer: Trainer, backbone: str, *, size: int = 224, outputs: int = 9) -> ModelSpec:
    settings = trainer.settings_for(backbone)
    return trainer.spec(backbone, settings.model, trainer.levels, input_size=size, in_channels=1, num_outputs=outputs)


@pytest.mark.parametrize("name", TRAINERS.names())
def test_trainer(name: str) -> None:
    trainer = TRAINERS.get(name)()
    assert (TRAINERS.get(name).__doc__ or "").strip()
    assert set(trainer.levels) <= set(LEVELS)
    assert choose_levels(trainer, None) == trainer.levels
    assert choose_recipe(trainer, None) in (SCRATCH, NO_PRETRAINING)
    assert trainer.default_backbone in BACKBONES.names()
    parts = frozenset(Part(part) for part in trainer.parts)
    assert Part.BASE not in parts
    for backbone in ("samora_tiny", trainer.default_backbone):
        with torch.device("meta"):
            network = build_network(_spec(trainer, backbone))
        freeze(network, parts)
        counts = account(network)
        assert all(frozen == 0 for part, (_, frozen) in counts.items() if part in parts)
        assert all(trainable == 0 for part, (trainable, _) in counts.items() if part not in parts)
        assert counts[Part.BASE][1] > 0
        assert counts[Part.DECODER][0] > 0


def test_samed_trains_as_many_parameters_as_its_code() -> None:
    trainer = TRAINERS.get("SAMedTrainer")()
    with torch.device("meta"):
        network = build_network(_spec(trainer, "sam_vit_b", size=512))
    freeze(network, frozenset(Part(part) for part in trainer.parts))
    assert sum(trainable for trainable, _ in account(network).values()) == 4_913_621


@pytest.mark.parametrize(("size", "trained"), [(224, 12_483_140), (512, 23_966_672)])
def test_h_sam_trains_as_many_parameters_as_its_code(size: int, trained: int) -> None:
    trainer = TRAINERS.get("HSAMTrainer")()
    spec = replace(_spec(trainer, "sam_vit_b", size=size), decoder="hsam_released")
    with torch.device("meta"):
        network = build_network(spec)
    freeze(network, frozenset(Part(part) for part in trainer.parts))
    assert sum(trainable for trainable, _ in account(network).values()) == trained


@pytest.mark.parametrize(("baseline", "ours"), [("SAMedTrainer", "SAMoraTrainer"), ("HSAMTrainer", "HSAMoraTrainer")])
@pytest.mark.parametrize("size", [224, 512])
def test_ours_adds_as_many_parameters_as_table_3_says(baseline: str, ours: str, size: int) -> None:
    counts = []
    for name in (baseline, ours):
        with torch.device("meta"):
            network = build_network(_spec(TRAINERS.get(name)(), "sam_vit_b", size=size))
        counts.append(sum(sum(part) for part in account(network).values()))
    # 118.5 M against 108.8 M, and 122.0 M against 112.3 M.
    assert counts[1] - counts[0] == pytest.approx(9.7e6, abs=0.1e6)


def test_in_h_samora_only_fusion_decoder_and_one_prompt_learn() -> None:
    trainer = TRAINERS.get("HSAMoraTrainer")()
    with torch.device("meta"):
        network = build_network(_spec(trainer, "sam_vit_b"))
    freeze(network, frozenset(Part(part) for part in trainer.parts))
    learning = {part: trainable for part, (trainable, _) in account(network).items() if trainable}
    assert learning == {Part.FUSION: 9_464_832, Part.DECODER: 12_183_943, Part.PROMPT: 256}
