"""Noise, views and augmentation are settings: they change keys, stand in config.json, and follow ``--set``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import CONFIG_FILE, LATEST_CHECKPOINT, RunConfig
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.paths import resolve_roots
from tests.trainers.runs import read_stage
from tests.trainers.small_data import make_dataset
from trainers.runs.folder import write_config
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request

BASIC = Request(
    "90", "SAMoraTrainer", "2cases", recipe="scratch", backbone="samora_tiny", backbone_weights="bootstrap", name="a"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("random"))


def planned(root: Path, *assignments: str) -> PlannedRun:
    return plan_run(replace(BASIC, assignments=assignments), resolve_roots(str(root)))


def digests(run: PlannedRun) -> dict[str, str]:
    return {record.name: record.digest for record in run.config.stages if record.digest}


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("expert_pixel.noise.sigma=0.1,0.2", ("noise", "options", "sigma"), [0.1, 0.2]),
        ("expert_pixel.noise.replaced=0.3", ("noise", "options", "replaced"), 0.3),
        ("expert_pixel.views.area=0.5,1", ("views", "area"), [0.5, 1.0]),
        ("expert_patch.views.gamma=0.5,2", ("views", "gamma"), [0.5, 2.0]),
        ("expert_image.views.blur=0", ("views", "blur"), 0.0),
        ("bootstrap.views.rotation=3", ("views", "rotation"), 3.0),
    ],
)
def test_noise_and_views_are_part_of_an_experts_key(
    root: Path, assignment: str, path: tuple[str, ...], value: object
) -> None:
    stage = assignment.partition(".")[0]
    usual, changed = planned(root), planned(root, assignment)
    differing = {name for name, digest in digests(usual).items() if digests(changed)[name] != digest}
    # All experts are trained on the bootstrapped base.
    assert differing == (set(digests(usual)) if stage == "bootstrap" else {stage})
    assert _at(changed.config, stage, path) == value != _at(usual.config, stage, path)
    assert set(changed.method.changes) - set(usual.method.changes) == {assignment.partition("=")[0]}


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("finetune.augmentation.flip=0", ("augmentation", "flip"), 0.0),
        ("finetune.augmentation.elastic_size=0.03", ("augmentation", "elastic_size"), 0.03),
        ("finetune.augmentation.scale=0.8,1.2", ("augmentation", "scale"), [0.8, 1.2]),
    ],
)
def test_augmentation_is_part_of_the_run_and_of_no_expert(
    root: Path, assignment: str, path: tuple[str, ...], value: object, tmp_path: Path
) -> None:
    usual, changed = planned(root), planned(root, assignment)
    assert digests(changed) == digests(usual)
    assert _at(changed.config, "finetune", path) == value != _at(usual.config, "finetune", path)
    begun = usual.context.folder / LATEST_CHECKPOINT
    write_config(usual.context.folder, usual.config)
    begun.touch()
    try:
        with pytest.raises(DataError) as caught:
            planned(root, assignment)
    finally:
        (usual.context.folder / CONFIG_FILE).unlink()
        begun.unlink()
    assert caught.value.code == "E-RUN-19"
    assert caught.value.found.startswith(f"stages.finetune.settings.{'.'.join(path)} ")


def test_the_file_gives_every_stage_back(root: Path, tmp_path: Path) -> None:
    run = planned(root, "finetune.augmentation.flip=0", "expert_pixel.noise.sigma=0.1,0.2", "fusion=mole")
    write_config(tmp_path, run.config)
    config = read_json(RunConfig, tmp_path / CONFIG_FILE)
    assert config == run.config
    assert {record.name: read_stage(record) for record in config.stages} == run.context.stages
    assert config.model.fusion == run.config.model.fusion
    assert config.model.fusion is not None
    assert config.model.fusion.name == "mole"


@pytest.mark.parametrize(
    ("assignment", "code"),
    [
        ("finetune.augmentation.flips=0", "E-SET-01"),
        ("finetune.augmentation.scale=0.9", "E-SET-03"),
        ("expert_pixel.noise.sigmas=0.1,0.2", "E-SET-01"),
        ("expert_pixel.noise.sigma=0.1", "E-SET-03"),
        ("expert_pixel.noise.sigma=low,high", "E-SET-03"),
        ("expert_pixel.noise.name=speckle", "E-NAME-01"),
    ],
)
def test_what_a_part_does_not_take_is_refused(root: Path, assignment: str, code: str) -> None:
    with pytest.raises(UsageError) as caught:
        planned(root, assignment)
    assert caught.value.code == code


def _at(config: RunConfig, stage: str, path: tuple[str, ...]) -> object:
    record = config.stage(stage)
    assert record is not None
    value: object = record.settings
    for name in path:
        assert isinstance(value, dict)
        value = value[name]
    return value
