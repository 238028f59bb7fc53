from __future__ import annotations

import pytest

from samora_pipeline.errors import UsageError
from trainers.config import SAMORA
from trainers.overrides import apply_overrides, differences


def test_values_take_the_type_of_their_field() -> None:
    settings = apply_overrides(
        SAMORA,
        [
            "finetune.epochs=7",
            "finetune.learning_rate=1e-3",
            "finetune.betas=0.8,0.95",
            "finetune.micro_batch=8",
            "expert_patch.normalised=false",
            "bootstrap.clip_norm=none",
            "model.fusion.order=1-1-2",
            "model.decoder=hsam",
        ],
    )
    assert settings.finetune.epochs == 7
    assert settings.finetune.learning_rate == 1e-3
    assert settings.finetune.betas == (0.8, 0.95)
    assert settings.finetune.micro_batch == 8
    assert settings.expert_patch.normalised is False
    assert settings.bootstrap.clip_norm is None
    assert settings.model.fusion.order == "1-1-2"
    assert settings.model.decoder == "hsam"


def test_an_integer_is_accepted_where_a_float_is_wanted_but_not_the_reverse() -> None:
    assert apply_overrides(SAMORA, ["finetune.dice=1"]).finetune.dice == 1.0
    with pytest.raises(UsageError, match="E-SET-03") as caught:
        apply_overrides(SAMORA, ["finetune.epochs=2.5"])
    assert caught.value.expected == "int"


@pytest.mark.parametrize(
    ("assignment", "code"),
    [
        ("finetune.epochs", "E-SET-02"),
        ("=3", "E-SET-02"),
        ("finetune=3", "E-SET-01"),
        ("finetune.epochs=true", "E-SET-03"),
        ("finetune.epochs=", "E-SET-03"),
        ("finetune.learning_rate=nan", "E-SET-03"),
        ("finetune.learning_rate=Infinity", "E-SET-03"),
        ("model.fusion.order=3-2-1", "E-SET-03"),
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
    assert "did you mean finetune.epochs?" in caught.value.expected


def test_differences_name_what_was_changed_and_nothing_else() -> None:
    changed = apply_overrides(SAMORA, ["finetune.epochs=7", "model.lora_rank=4"])
    assert differences(changed, SAMORA) == {"finetune.epochs": 7}
