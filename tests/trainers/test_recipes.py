"""Recipes: the numbers of Tables 7 and 12, and which arms of Table 5 they are."""

from __future__ import annotations

import pytest

from samora_pipeline.errors import UsageError
from trainers.config import SAMORA, Settings
from trainers.pretraining_config import DistillationSettings, ImageSettings, PatchSettings, PatchTeacherSettings
from trainers.recipes import RECIPES, with_lengths, with_objectives
from trainers.samora import SAMoraTrainer
from trainers.stages.pretraining import peak_rate


def resolved(name: str) -> Settings:
    return SAMoraTrainer().settings_for("sam_vit_b", name)


def epochs(settings: Settings) -> tuple[int, ...]:
    stages = ("teacher_image", "teacher_patch", "expert_image", "expert_patch", "expert_pixel")
    return tuple(getattr(settings, stage).epochs for stage in stages)


@pytest.mark.parametrize(
    ("name", "taught", "continued", "expected"),
    [
        ("full", True, True, (80, 60, 80, 60, 30)),
        ("nocpt", True, False, (80, 60, 80, 60, 30)),
        ("scratch", False, False, (80, 60, 80, 60, 30)),
        ("paper_literal", True, True, (80, 60, 80, 60, 30)),
        # Table 12's hours: 1.8 of 13.4; 0.8 of 12.7 and 1.3 of 13.4.
        ("T1", True, False, (80, 60, 11, 8, 4)),
        ("T2", True, True, (5, 4, 8, 6, 3)),
    ],
)
def test_arms_of_the_paper(name: str, taught: bool, continued: bool, expected: tuple[int, ...]) -> None:
    recipe, settings = RECIPES[name], resolved(name)
    assert (recipe.taught, recipe.continued) == (taught, continued)
    assert epochs(settings) == expected
    for stage, own in (("expert_image", ImageSettings), ("expert_patch", PatchSettings)):
        assert isinstance(getattr(settings, stage), DistillationSettings if taught else own)


def test_table_7_is_followed_for_the_teachers_and_the_pixel_level() -> None:
    settings = resolved("full")
    image, patch, pixel = settings.teacher_image, settings.teacher_patch, settings.expert_pixel
    assert (image.optimizer, image.learning_rate, image.weight_decay, image.batch) == ("lars", 0.075, 1e-4, 512)
    assert (patch.optimizer, patch.learning_rate, patch.weight_decay, patch.betas) == (
        "adamw",
        1.5e-4,
        0.05,
        (0.9, 0.95),
    )
    assert (pixel.optimizer, pixel.learning_rate, pixel.weight_decay, pixel.betas) == ("adamw", 1e-4, 0.05, (0.9, 0.99))
    assert peak_rate(image, 512) == pytest.approx(1.697, abs=1e-3)
    assert peak_rate(patch, 512) == pytest.approx(3e-4)
    assert peak_rate(pixel, 512) == 1e-4
    # LARS belongs to the ResNet: on LoRA, whose B starts at zero, its first step is far too large.
    assert settings.expert_image.optimizer == "adamw"


def test_the_literal_recipe_takes_table_7_row_for_row() -> None:
    settings = resolved("paper_literal")
    for name, warmup in (("teacher_image", 30), ("teacher_patch", 30), ("expert_image", 30), ("expert_pixel", 10)):
        stage = getattr(settings, name)
        assert (stage.warmup, stage.warmup_unit) == (warmup, "epochs")
    assert settings.expert_image.optimizer == "lars"
    assert peak_rate(settings.expert_image, 512) == pytest.approx(1.697, abs=1e-3)
    assert isinstance(settings.expert_patch, DistillationSettings)
    assert settings.expert_patch.scale == "none"
    assert settings.expert_pixel.dice == 0.9


def test_the_objectives_of_a_recipe_hold_for_tiny_backbones_too() -> None:
    tiny = SAMoraTrainer().settings_for("samora_tiny", "paper_literal")
    assert (tiny.expert_image.optimizer, tiny.expert_image.scale, tiny.expert_patch.scale) == ("lars", "none", "none")
    assert tiny.expert_pixel.dice == 0.9
    assert SAMoraTrainer().settings_for("samora_tiny", "full").expert_pixel.dice == 0


@pytest.mark.parametrize("name", list(RECIPES))
def test_tiny_backbones_shorten_every_recipe(name: str) -> None:
    settings = SAMoraTrainer().settings_for("samora_tiny", name)
    assert all(1 <= length <= 6 for length in epochs(settings))
    assert settings.teacher_image.network == "simclr_tiny"
    assert settings.teacher_patch.weights == "random"
    assert type(settings.expert_image) is type(resolved(name).expert_image)


def test_shares_leave_at_least_an_epoch() -> None:
    one = with_lengths(SAMORA, RECIPES["T2"])
    assert min(epochs(with_lengths(with_lengths(one, RECIPES["T2"]), RECIPES["T2"]))) == 1
    assert with_objectives(SAMORA, RECIPES["scratch"]) == SAMORA


@pytest.mark.parametrize("values", [{"masked_share": 1.0}, {"masked_share": -0.1}, {"epochs": 0}, {"input_size": 0}])
def test_settings_that_make_no_sense(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="E-SET-04"):
        PatchTeacherSettings(**values)
    if "masked_share" in values:
        with pytest.raises(UsageError, match="E-SET-04"):
            DistillationSettings(**values)
