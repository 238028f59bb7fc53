from __future__ import annotations

import pytest

from samora_pipeline.contracts.level import Level
from samora_pipeline.errors import UsageError
from trainers.request import check_stage, choose_levels, choose_recipe, find_trainer
from trainers.samed import SAMedTrainer
from trainers.samora import SAMoraTrainer


def test_a_trainer_is_found_by_name_or_by_path() -> None:
    assert isinstance(find_trainer("SAMedTrainer"), SAMedTrainer)
    assert isinstance(find_trainer("trainers.samora:SAMoraTrainer"), SAMoraTrainer)


def test_the_habit_of_another_tool_gets_an_explanation() -> None:
    with pytest.raises(UsageError) as caught:
        find_trainer("2d")
    error = caught.value
    assert (error.code, error.exit_code) == ("E-ARG-03", 2)
    assert error.what == '"2d" is not a trainer'
    assert "DATASET TRAINER SPLIT" in error.expected
    assert "SAMoraTrainer, SAMedTrainer" in error.expected


def test_a_misspelt_trainer_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        find_trainer("SamoraTraner")
    assert "did you mean SAMoraTrainer?" in caught.value.expected


@pytest.mark.parametrize("recipe", ["full", "T1", "T2", "nocpt"])
def test_recipes_with_teachers_come_later(recipe: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose_recipe(SAMoraTrainer(), recipe)
    assert caught.value.code == "E-RECIPE-01"
    assert all(word in caught.value.what for word in (recipe, "scratch", "none"))


def test_recipes() -> None:
    assert choose_recipe(SAMoraTrainer(), None) == "scratch"
    assert choose_recipe(SAMoraTrainer(), "none") == "none"
    assert choose_recipe(SAMedTrainer(), None) == "none"
    for trainer, recipe in ((SAMedTrainer(), "scratch"), (SAMoraTrainer(), "magic")):
        with pytest.raises(UsageError, match="E-RECIPE-01"):
            choose_recipe(trainer, recipe)


def test_levels_keep_their_order() -> None:
    trainer = SAMoraTrainer()
    assert choose_levels(trainer, None) == (Level.IMAGE, Level.PATCH, Level.PIXEL)
    assert choose_levels(trainer, ("pixel", "image")) == (Level.IMAGE, Level.PIXEL)
    for wrong in (("imag",), (), ("image", "slice")):
        with pytest.raises(UsageError, match="E-ARG-06"):
            choose_levels(trainer, wrong)
    with pytest.raises(UsageError, match="E-ARG-06"):
        choose_levels(SAMedTrainer(), ("image", "patch"))


def test_stages() -> None:
    for stage in (None, "bootstrap", "expert_pixel", "finetune", "validate"):
        check_stage(stage)
    with pytest.raises(UsageError, match=r"(?s)E-STAGE-01.*did you mean finetune"):
        check_stage("fine-tune")
