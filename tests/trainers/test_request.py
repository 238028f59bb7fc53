from __future__ import annotations

import pytest
from trainers.request import check_stage, choose_levels, choose_recipe, find_trainer
from trainers.samed import SAMedTrainer
from trainers.samora import SAMoraTrainer

from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.errors import UsageError


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


def test_recipes() -> None:
    samora, samed = SAMoraTrainer(), SAMedTrainer()
    assert choose_recipe(samora, None, "sam_vit_b") == "full"
    # The tiny teachers have no public weights, and a laptop no time.
    assert choose_recipe(samora, None, "samora_tiny") == choose_recipe(samora, None, "samora2_tiny") == "scratch"
    for asked in ("full", "T1", "T2", "nocpt", "scratch", "none", "paper_literal"):
        assert choose_recipe(samora, asked, "samora_tiny") == asked
    assert choose_recipe(samed, None, "samora_tiny") == "none"
    for trainer, recipe in ((samed, "scratch"), (samora, "magic")):
        with pytest.raises(UsageError, match="E-RECIPE-01"):
            choose_recipe(trainer, recipe, "sam_vit_b")
    with pytest.raises(UsageError, match="did you mean nocpt"):
        choose_recipe(samora, "no-cpt", "sam_vit_b")


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
    for stage in (None, "bootstrap", "teacher_image", "expert_pixel", "finetune", "validate"):
        check_stage(stage)
    with pytest.raises(UsageError, match=r"(?s)E-STAGE-01.*did you mean finetune"):
        check_stage("fine-tune")
