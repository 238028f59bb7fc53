from __future__ import annotations

from dataclasses import replace

import pytest

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec
from samora_pipeline.errors import UsageError
from trainers import recipes
from trainers.methods import SAMoraTrainer
from trainers.runs.choices import apply_overrides, differences

SAMORA = {
    "model": replace(SAMoraTrainer.model, fusion=FusionSpec(options={"order": "2-1-1", "heads": 8, "share": 1.0})),
    "bootstrap": recipes.BOOTSTRAP_BASE,
    **SAMoraTrainer().stages("scratch", LEVELS, small=False),
}


def test_values_take_the_type_of_their_field() -> None:
    settings = apply_overrides(
        SAMORA,
        [
            "finetune.epochs=7",
            "finetune.learning_rate=1e-3",
            "finetune.betas=0.8,0.95",
            "finetune.micro_batch=8",
            "finetune.augmentation.contrast=0.5,1.5",
            "expert_patch.normalised=false",
            "expert_image.views.blur=0",
            "bootstrap.clip_norm=none",
            "model.fusion.order=1-1-2",
            "model.fusion.share=2",
            "model.decoder=hsam",
        ],
    )
    finetune, model = settings["finetune"], settings["model"]
    assert (finetune.epochs, finetune.learning_rate, finetune.betas) == (7, 1e-3, (0.8, 0.95))
    assert finetune.micro_batch == 8
    assert finetune.augmentation.contrast == (0.5, 1.5)
    assert settings["expert_patch"].normalised is False
    assert settings["expert_image"].views.blur == 0.0
    assert settings["bootstrap"].clip_norm is None
    assert model.fusion.options == {"order": "1-1-2", "heads": 8, "share": 2.0}
    assert model.decoder == "hsam"


def test_an_integer_is_accepted_where_a_float_is_wanted_but_not_the_reverse() -> None:
    assert apply_overrides(SAMORA, ["finetune.dice=1"])["finetune"].dice == 1.0
    with pytest.raises(UsageError, match="E-SET-03"):
        apply_overrides(SAMORA, ["finetune.epochs=2.5"])


@pytest.mark.parametrize(
    ("assignment", "code"),
    [
        ("finetune.epochs", "E-SET-02"),
        ("=3", "E-SET-02"),
        ("finetune=3", "E-SET-01"),
        ("model.fusion.options=3", "E-SET-01"),
        ("finetune.epochs=true", "E-SET-03"),
        ("finetune.epochs=", "E-SET-03"),
        ("finetune.learning_rate=nan", "E-SET-03"),
        ("finetune.learning_rate=Infinity", "E-SET-03"),
        ("model.fusion.heads=many", "E-SET-03"),
        ("finetune.betas=0.9", "E-SET-03"),
        ("expert_patch.normalised=1", "E-SET-03"),
    ],
)
def test_wrong_assignments_are_refused(assignment: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides(SAMORA, [assignment])
    assert caught.value.code == code


def test_an_unknown_name_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides(SAMORA, ["finetune.epoch=3"])
    assert "finetune.epochs" in caught.value.expected.split("?")[0]


def test_differences_name_what_was_changed_and_nothing_else() -> None:
    changed = apply_overrides(SAMORA, ["finetune.epochs=7", "model.lora_rank=4", "model.fusion.order=1-1-2"])
    assert differences(changed, SAMORA) == {"finetune.epochs": 7, "model.fusion.order": "1-1-2"}
