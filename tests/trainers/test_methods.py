"""The methods page: the numbers of Tables 7, 8 and 12, the recipes of Table 5, and the settings of small backbones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from samora_pipeline.contracts.model_spec import LEVELS
from samora_pipeline.errors import UsageError
from trainers import methods, recipes
from trainers.finetune_settings import FinetuneSettings
from trainers.loop.pretraining import peak_rate
from trainers.methods import (
    AutoSAMTrainer,
    HSAMoraTrainer,
    HSAMTrainer,
    SAMed2Trainer,
    SAMedTrainer,
    SAMora2Trainer,
    SAMoraTrainer,
)
from trainers.settings import (
    ContrastiveSettings,
    DistillationSettings,
    MaskedSettings,
    PretrainingSettings,
    StageSettings,
)

TEACHERS = ("teacher_image", "teacher_patch")
EXPERTS = ("expert_image", "expert_patch", "expert_pixel")


def resolved(recipe: str, *, small: bool = False) -> dict[str, Any]:
    """The settings by stage; each stage has a class of its own."""
    return SAMoraTrainer().stages(recipe, LEVELS, small=small)


def epochs(stages: Mapping[str, StageSettings]) -> tuple[int, ...]:
    return tuple(stage.epochs for stage in stages.values() if isinstance(stage, PretrainingSettings))


def test_table_7_where_it_applies_to_experts() -> None:
    image, patch, pixel = recipes.CONTRASTIVE, recipes.MASKED, recipes.DENOISING
    assert [stage.batch for stage in (image, patch, pixel)] == [512, 512, 512]
    assert [stage.epochs for stage in (image, patch, pixel)] == [80, 60, 30]
    assert [stage.weight_decay for stage in (image, patch, pixel)] == [1e-4, 0.05, 0.05]
    # 1.5e-4 is a base rate per 256 samples.
    assert patch.learning_rate == pytest.approx(1.5e-4 * 512 / 256)
    assert pixel.learning_rate == 1e-4
    assert patch.betas == (0.9, 0.95)
    assert pixel.betas == (0.9, 0.99)
    assert image.micro_batch is None


def test_table_8_and_equation_9() -> None:
    assert SAMoraTrainer.finetune == FinetuneSettings(
        learns=("fusion", "decoder", "prompt", "adapter"),
        epochs=20,
        batch=32,
        learning_rate=5e-3,
        weight_decay=0.1,
        betas=(0.9, 0.999),
        warmup=25,
        exponent=1.0,
        cross_entropy=0.2,
        dice=0.8,
    )


def test_samed_stops_before_the_end_of_its_schedule() -> None:
    finetune = SAMedTrainer.finetune
    assert (finetune.batch, finetune.warmup, finetune.exponent) == (24, 250, 0.9)
    assert (finetune.epochs, finetune.schedule_epochs) == (160, 200)
    assert (finetune.learning_rate, finetune.weight_decay) == (5e-3, 0.1)


def test_table_8_for_h_samora_and_the_baselines_own_weights() -> None:
    theirs = HSAMTrainer.finetune
    ours = replace(SAMoraTrainer.finetune, epochs=30, learning_rate=2.5e-3, cross_entropy=0.1, dice=0.9)
    assert ours == HSAMoraTrainer.finetune
    assert (theirs.epochs, theirs.batch, theirs.learning_rate) == (300, 16, 2.5e-3)
    assert (theirs.warmup, theirs.exponent, theirs.weight_decay) == (250, 0.9, 0.1)
    assert (theirs.cross_entropy, theirs.dice) == (0.1, 0.9)
    model = replace(SAMoraTrainer.model, decoder="hsam", decoder_stages="mean")
    assert HSAMTrainer.model == HSAMoraTrainer.model == model


def test_table_8_for_samora_2_differs_in_the_epochs_alone() -> None:
    assert SAMora2Trainer.finetune == replace(SAMoraTrainer.finetune, epochs=25)
    assert SAMed2Trainer.finetune == SAMedTrainer.finetune
    assert SAMed2Trainer.model == SAMora2Trainer.model == replace(SAMoraTrainer.model, decoder="sam2")


@pytest.mark.parametrize(
    ("name", "taught", "continued", "expected"),
    [
        ("full", True, True, (80, 60, 80, 60, 30)),
        ("nocpt", True, False, (80, 60, 80, 60, 30)),
        ("scratch", False, False, (80, 60, 30)),
        ("paper_literal", True, True, (80, 60, 80, 60, 30)),
        # Table 12's hours: 1.8 of 13.4; 0.8 of 12.7 and 1.3 of 13.4.
        ("T1", True, False, (80, 60, 11, 8, 4)),
        ("T2", True, True, (5, 4, 8, 6, 3)),
    ],
)
def test_recipes_of_the_paper(name: str, taught: bool, continued: bool, expected: tuple[int, ...]) -> None:
    stages = resolved(name)
    assert list(stages) == [*(TEACHERS if taught else ()), *EXPERTS, "finetune"]
    assert epochs(stages) == expected
    for expert, own in (("expert_image", ContrastiveSettings), ("expert_patch", MaskedSettings)):
        assert type(stages[expert]) is (DistillationSettings if taught else own)
    assert all(stages[teacher].continued is continued for teacher in TEACHERS if taught)


def test_table_7_is_followed_for_the_teachers_and_the_pixel_level() -> None:
    stages = resolved("full")
    image, patch, pixel = stages["teacher_image"], stages["teacher_patch"], stages["expert_pixel"]
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
    assert stages["expert_image"].optimizer == "adamw"


def test_the_literal_recipe_takes_table_7_row_for_row() -> None:
    stages = resolved("paper_literal")
    for name, warmup in (("teacher_image", 30), ("teacher_patch", 30), ("expert_image", 30), ("expert_pixel", 10)):
        assert (stages[name].warmup, stages[name].warmup_unit) == (warmup, "epochs")
    assert stages["expert_image"].optimizer == "lars"
    assert peak_rate(stages["expert_image"], 512) == pytest.approx(1.697, abs=1e-3)
    assert stages["expert_patch"].scale == "none"
    assert stages["expert_pixel"].dice == 0.9


def test_the_objectives_of_a_recipe_hold_for_small_backbones_too() -> None:
    small = resolved("paper_literal", small=True)
    image, patch = small["expert_image"], small["expert_patch"]
    assert (image.optimizer, image.scale, patch.scale) == ("lars", "none", "none")
    assert small["expert_pixel"].dice == 0.9
    assert resolved("full", small=True)["expert_pixel"].dice == 0


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_small_backbones_shorten_every_recipe(name: str) -> None:
    small = resolved(name, small=True)
    assert all(1 <= length <= 6 for length in epochs(small))
    assert {stage: type(value) for stage, value in small.items()} == {
        stage: type(value) for stage, value in resolved(name).items()
    }
    if "teacher_image" in small:
        assert small["teacher_image"].network == "simclr_tiny"
        assert small["teacher_patch"].weights == "random"


@pytest.mark.parametrize("trainer", [SAMoraTrainer, SAMedTrainer, HSAMoraTrainer, HSAMTrainer])
def test_the_small_form_keeps_losses_and_optimizers(trainer: type[methods.Trainer]) -> None:
    recipe = trainer.recipes[0] if "scratch" not in trainer.recipes else "scratch"
    full: dict[str, Any] = trainer().stages(recipe, trainer.levels, small=False)
    small: dict[str, Any] = trainer().stages(recipe, trainer.levels, small=True)
    ours, theirs = small["finetune"], full["finetune"]
    for name in ("learning_rate", "weight_decay", "betas", "cross_entropy", "dice", "exponent", "learns"):
        assert vars(ours)[name] == vars(theirs)[name]
    assert ours.schedule_epochs is None
    for stage in set(full) - {"finetune"}:
        assert small[stage].steps_per_epoch is not None
        assert small[stage].betas == full[stage].betas


def test_the_fusion_has_a_rate_of_its_own_on_the_small_sam_alone() -> None:
    trainers = (SAMoraTrainer(), HSAMoraTrainer(), SAMora2Trainer())
    rates = {
        small: [vars(one.stages("none", LEVELS, small=small)["finetune"])["fusion_rate"] for one in trainers]
        for small in (False, True)
    }
    assert rates == {False: [1.0, 1.0, 1.0], True: [0.1, 0.1, 1.0]}


def test_one_level_has_its_own_stages_alone() -> None:
    (pixel,) = (level for level in LEVELS if level.value == "pixel")
    assert list(SAMoraTrainer().stages("full", (pixel,), small=True)) == ["expert_pixel", "finetune"]


def test_the_short_form_takes_two_steps_of_everything() -> None:
    for settings in (recipes.BOOTSTRAP_BASE, *resolved("full").values(), SAMedTrainer.finetune):
        short: Any = settings.short()
        assert (short.epochs, short.steps_per_epoch) == (1, 2)
        assert short.batch <= 4


def test_shares_leave_at_least_an_epoch() -> None:
    assert recipes.DENOISING.shortened(teachers=1.0, experts=1e-3).epochs == 1
    assert recipes.PATCH_TEACHER.shortened(teachers=1e-3, experts=1.0).epochs == 1
    assert recipes.PATCH_TEACHER.shortened(teachers=1.0, experts=1e-3) == recipes.PATCH_TEACHER


@pytest.mark.parametrize(
    ("settings", "values"),
    [
        (recipes.PATCH_TEACHER, {"masked_share": 1.0}),
        (recipes.DISTILLED_PATCH, {"masked_share": -0.1}),
        (recipes.PATCH_TEACHER, {"input_size": 0}),
        (SAMoraTrainer.finetune, {"fusion_rate": 0}),
        (AutoSAMTrainer.finetune, {"schedule_epochs": 0}),
        *(
            (settings, {name: 0})
            for settings in (SAMoraTrainer.finetune, recipes.MASKED)
            for name in ("epochs", "batch", "learning_rate", "micro_batch", "steps_per_epoch")
        ),
    ],
)
def test_settings_that_make_no_sense(settings: StageSettings, values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="E-SET-04"):
        replace(settings, **values)
