from __future__ import annotations

from dataclasses import replace

import pytest

from samora_pipeline.errors import UsageError
from trainers.config import HSAM, HSAMORA, SAMED, SAMED2, SAMORA, SAMORA2, FinetuneSettings, shortened, shrunk


def test_table_7_where_it_applies_to_experts() -> None:
    image, patch, pixel = SAMORA.expert_image, SAMORA.expert_patch, SAMORA.expert_pixel
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
    assert SAMORA.finetune == FinetuneSettings(
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
    finetune = SAMED.finetune
    assert (finetune.batch, finetune.warmup, finetune.exponent) == (24, 250, 0.9)
    assert (finetune.epochs, finetune.schedule_epochs) == (160, 200)
    assert (finetune.learning_rate, finetune.weight_decay) == (5e-3, 0.1)


def test_table_8_for_h_samora_and_the_baselines_own_weights() -> None:
    ours, theirs = HSAMORA.finetune, HSAM.finetune
    assert replace(SAMORA.finetune, epochs=30, learning_rate=2.5e-3) == ours
    assert (theirs.epochs, theirs.batch, theirs.learning_rate) == (300, 16, 2.5e-3)
    assert (theirs.warmup, theirs.exponent, theirs.weight_decay) == (250, 0.9, 0.1)
    assert (theirs.cross_entropy, theirs.dice) == (0.1, 0.9)
    assert HSAM.model == HSAMORA.model == replace(SAMORA.model, decoder="hsam")


def test_table_8_for_samora_2_differs_in_the_epochs_alone() -> None:
    assert SAMORA2.finetune == replace(SAMORA.finetune, epochs=25)
    assert SAMED2.finetune == SAMED.finetune
    assert SAMED2.model == SAMORA2.model == replace(SAMORA.model, decoder="sam2")


def test_the_tiny_form_keeps_losses_and_optimizers() -> None:
    for settings in (SAMORA, SAMED, HSAMORA, HSAM):
        tiny = shrunk(settings)
        for name in ("learning_rate", "weight_decay", "betas", "cross_entropy", "dice", "exponent"):
            assert getattr(tiny.finetune, name) == getattr(settings.finetune, name)
        assert tiny.finetune.schedule_epochs is None
        for stage in ("expert_image", "expert_patch", "expert_pixel"):
            assert getattr(tiny, stage).steps_per_epoch is not None
            assert getattr(tiny, stage).betas == getattr(settings, stage).betas


def test_the_fusion_has_a_rate_of_its_own_on_the_tiny_sam_alone() -> None:
    assert {settings.finetune.fusion_rate for settings in (SAMORA, HSAMORA, SAMORA2)} == {1.0}
    assert [shrunk(settings).finetune.fusion_rate for settings in (SAMORA, HSAMORA, SAMORA2)] == [0.1, 0.1, 1.0]


def test_the_fusion_rate_is_positive() -> None:
    with pytest.raises(UsageError, match="E-SET-04"):
        replace(SAMORA.finetune, fusion_rate=0)


def test_the_short_form_takes_two_steps_of_everything() -> None:
    short = shortened(SAMED)
    for stage in ("bootstrap", "expert_image", "expert_patch", "expert_pixel", "finetune"):
        settings = getattr(short, stage)
        assert (settings.epochs, settings.steps_per_epoch) == (1, 2)
        assert settings.batch <= 4


@pytest.mark.parametrize("name", ["epochs", "batch", "learning_rate", "micro_batch", "steps_per_epoch"])
def test_lengths_and_rates_are_positive(name: str) -> None:
    for settings in (SAMORA.finetune, SAMORA.expert_patch):
        with pytest.raises(UsageError, match="E-SET-04"):
            replace(settings, **{name: 0})
