"""The contract that every registered trainer meets."""

from __future__ import annotations

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


def test_samora_adds_as_many_parameters_as_table_3_says() -> None:
    counts = {}
    for name in ("SAMedTrainer", "SAMoraTrainer"):
        with torch.device("meta"):
            counts[name] = sum(
                sum(part) for part in account(build_network(_spec(TRAINERS.get(name)(), "sam_vit_b"))).values()
            )
    added = counts["SAMoraTrainer"] - counts["SAMedTrainer"]
    # 118.5 M against 108.8 M.
    assert added == pytest.approx(9.7e6, rel=0.01)
