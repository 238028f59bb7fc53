from __future__ import annotations

import pytest

from samora_pipeline.contracts.level import Level
from samora_pipeline.errors import UsageError
from trainers.methods import TRAINERS, SAMedTrainer, SAMoraTrainer
from trainers.runs.request import check_stage, choose_levels, choose_recipe, find_trainer


def test_a_trainer_is_found_by_name_or_by_path() -> None:
    assert isinstance(find_trainer("SAMedTrainer"), SAMedTrainer)
    assert isinstance(find_trainer("trainers.methods:SAMoraTrainer"), SAMoraTrainer)


def test_arguments_in_another_tools_order_name_the_order_here() -> None:
    with pytest.raises(UsageError) as caught:
        find_trainer("2d")
    error = caught.value
    assert (error.code, error.exit_code, error.found) == ("E-ARG-03", 2, "2d")
    assert "DATASET TRAINER SPLIT" in error.expected
    assert set(TRAINERS.names()) <= set(error.expected.replace(",", " ").split())


def test_a_misspelt_trainer_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        find_trainer("SamoraTraner")
    assert caught.value.expected.partition("?")[0].endswith(" SAMoraTrainer")


def test_recipes() -> None:
    samora, samed = SAMoraTrainer(), SAMedTrainer()
    assert choose_recipe(samora, None, small=False) == "full"
    # The tiny teachers have no public weights, and a laptop no time.
    assert choose_recipe(samora, None, small=True) == "scratch"
    for asked in ("full", "T1", "T2", "nocpt", "scratch", "none", "paper_literal"):
        assert choose_recipe(samora, asked, small=True) == asked
    for small in (False, True):
        assert choose_recipe(samed, None, small=small) == "none"
    for trainer, recipe in ((samed, "scratch"), (samora, "magic"), (samora, "no-cpt")):
        with pytest.raises(UsageError) as caught:
            choose_recipe(trainer, recipe, small=False)
        assert (caught.value.code, caught.value.found) == ("E-RECIPE-01", recipe)
    assert caught.value.expected.partition("?")[0].endswith(" nocpt")


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
    with pytest.raises(UsageError) as caught:
        check_stage("fine-tune")
    assert (caught.value.code, caught.value.found) == ("E-STAGE-01", "fine-tune")
    assert caught.value.expected.partition("?")[0].endswith(" finetune")
