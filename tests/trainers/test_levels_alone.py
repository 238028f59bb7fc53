"""Any level alone, under every recipe (Tables 5 and 15): what is planned, and what a run leaves."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import pytest
import torch

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.model_spec import LEVELS, Level
from samora_pipeline.contracts.monitoring import ExpertsReport, MonitoringReport
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.errors import DataError
from samora_pipeline.paths import resolve_roots
from tests.trainers.processes import exit_code, forked
from tests.trainers.runs import artefact_folders, final, fold_folder, session, short
from tests.trainers.small_data import NAME, make_dataset
from trainers.cli import main
from trainers.recipes import RECIPES
from trainers.runs import execution
from trainers.runs.planning import plan_run
from trainers.runs.request import Request
from trainers.settings import DistillationSettings

CONTINUED = ("full", "T2", "paper_literal")
"""recipes with CPT"""
TAUGHT = (*CONTINUED, "T1", "nocpt")
TRAINED = [
    ("full", "image"),
    ("nocpt", "image"),
    ("T1", "patch"),
    ("T2", "patch"),
    ("scratch", "image"),
    ("scratch", "patch"),
    ("paper_literal", "image"),
    ("paper_literal", "pixel"),
    ("none", "patch"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_dataset(tmp_path_factory.mktemp("levels"))
    # Without raw files of the scored cases nothing is predicted, which is tested elsewhere.
    shutil.rmtree(root / "raw" / NAME / "imagesTr")
    return root


def stages_of(recipe: str, level: Level) -> list[str]:
    """The stages whose results runs share; a teacher that is taken as it is has none."""
    teacher = [f"teacher_{level.value}"] if recipe in CONTINUED and level is not Level.PIXEL else []
    return teacher + ([f"expert_{level.value}"] if recipe != "none" else [])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_nothing_is_planned_that_the_level_does_not_need(recipe: str, level: Level, root: Path) -> None:
    request = Request("90", "SAMoraTrainer", "2cases", backbone="samora_tiny", recipe=recipe, levels=(level.value,))
    plan = plan_run(request, resolve_roots(str(root)))
    assert [record.name for record in plan.config.stages if record.digest] == stages_of(recipe, level)
    assert plan.config.model.levels == (level.value,)
    assert plan.config.model.fusion is None
    taught = recipe in TAUGHT and level is not Level.PIXEL
    assert set(plan.config.teachers) == ({level.value} if taught else set())
    assert isinstance(plan.method.stages.get(f"expert_{level.value}"), DistillationSettings) == taught


def words(root: Path, recipe: str, level: str) -> list[str]:
    tiny = ("--backbone", "samora_tiny", "--device", "cpu", "--debug", "--recipe", recipe, "--levels", level)
    stages = stages_of(recipe, Level(level))
    return [
        "90",
        "SAMoraTrainer",
        "2cases",
        "--root",
        str(root),
        *tiny,
        *short(*stages, "finetune"),
        "--name",
        f"{recipe}-{level}",
    ]


@pytest.mark.parametrize(("recipe", "level"), TRAINED)
def test_a_level_is_trained_alone(recipe: str, level: str, root: Path, tmp_path: Path) -> None:
    own = tmp_path / "root"
    shutil.copytree(root, own)
    assert session(words(own, recipe, level)) == 0
    folder, made = fold_folder(own, f"SAMoraTrainer__2cases__{recipe}-{level}"), artefact_folders(own)
    assert set(made) == set(stages_of(recipe, Level(level)))
    for stage, result in made.items():
        assert read_json(MonitoringReport, result / "monitoring.json").stage == stage
    tensors = final(own, f"SAMoraTrainer__2cases__{recipe}-{level}").tensors
    moved = [name for name, value in tensors.items() if name.endswith("_b") and bool(value.any())]
    assert bool(moved) == (recipe != "none")
    assert all(f".experts.{level}." in name for name in moved)
    assert all(bool(torch.isfinite(value).all()) for value in tensors.values())
    if recipe != "none":
        assert read_json(ExpertsReport, folder / "experts.json").names == ("base", level)
    else:
        assert not (folder / "experts.json").exists()
    assert read_json(RunConfig, folder / "config.json").recipe == recipe


def test_a_misfit_ends_a_run_before_its_first_step(root: Path, tmp_path: Path) -> None:
    own = tmp_path / "root"
    shutil.copytree(root, own)

    def work() -> int:
        def misfit(*_: object) -> None:
            raise DataError("E-EXP-20", "an untrained expert does not fit")

        with mock.patch.object(execution, "rehearse", misfit):
            return main(words(own, "full", "patch"))

    assert exit_code(forked(work)) == 4
    assert not list((own / "results").rglob("log.jsonl"))
