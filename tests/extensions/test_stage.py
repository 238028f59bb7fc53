"""A method of one's own with a stage of its own, both from outside the repository: a class each, and its settings."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import CONFIG_FILE, RunConfig
from tests.trainers.runs import losses, read_stage
from tests.trainers.small_data import NAME, make_dataset
from trainers.cli import main

STAGE = '''
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from safetensors.torch import save_file

from samora_pipeline.optimization.optimizers import adamw, parameter_groups
from trainers.loop.loop import Training
from trainers.settings import StageSettings
from trainers.stages.stage import Stage, Trainable


@dataclass(frozen=True)
class BrightnessSettings(StageSettings):
    kind: ClassVar[str] = "outside_stage:Brightness"

    rounds: int = 3
    rate: float = 0.1


class Brightness(Stage[BrightnessSettings]):
    """The mean intensity of the pool, found by descent."""

    Settings = BrightnessSettings
    file = "brightness.safetensors"

    def inputs(self, run):
        return {"pool": run.pool.key, "seed": run.seed, "input_size": run.model.input_size}

    def build(self, run, context):
        network = torch.nn.Linear(1, 1, bias=False)
        return Trainable(network, partial(self.training, network, context.source))

    def training(self, network, source):
        def loss(batch, epoch):
            error = network.weight - batch["images"].mean()
            return error.square().sum(), {}

        parameters = dict(network.named_parameters())
        return Training(
            stage=self.name,
            parameters=parameters,
            optimizer=adamw(parameter_groups(parameters.values(), 0.0), betas=(0.9, 0.999)),
            learning_rate=lambda step: self.settings.rate,
            batches=lambda epoch: [[0, 1], [2, 3]],
            load=lambda indices, epoch: {"images": source.images(indices)},
            loss=loss,
            epochs=self.settings.rounds,
            micro_batch=None,
        )

    def save(self, trained, run, file):
        save_file(trained.network.state_dict(), file)
'''
TRAINER = '''
from dataclasses import replace

from outside_stage import BrightnessSettings

from trainers.methods import SAMoraTrainer


class Bright(SAMoraTrainer):
    """SAMora at another rate, with one more stage before the labels."""

    recipes = ("none",)
    finetune = replace(SAMoraTrainer.finetune, learning_rate=1e-3)

    def stages(self, recipe, levels, **sizes):
        *before, finetune = super().stages(recipe, levels, **sizes).items()
        return dict([*before, ("brightness", BrightnessSettings()), finetune])
'''
RUN = "Bright__2cases__"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_dataset(tmp_path_factory.mktemp("own"))
    # Without raw files of the scored cases nothing is predicted, which is tested elsewhere.
    shutil.rmtree(root / "raw" / NAME / "imagesTr")
    return root


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules of a user's own, importable as if their package were installed."""
    for name, source in {"outside_stage": STAGE, "outside_trainer": TRAINER}.items():
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)


def words(root: Path, name: str, *more: str) -> list[str]:
    short = [word for text in ("epochs=1", "steps_per_epoch=1", "batch=2") for word in ("--set", f"finetune.{text}")]
    basic = ["90", "outside_trainer:Bright", "2cases", "--root", str(root), "--backbone", "samora_tiny"]
    return [*basic, "--device", "cpu", "--debug", "--name", name, *short, *more]


def config_of(root: Path, name: str) -> RunConfig:
    return read_json(RunConfig, root / "results" / NAME / f"{RUN}{name}" / "fold_0" / CONFIG_FILE)


def made(root: Path) -> list[Path]:
    return sorted((root / "results" / NAME / "pretraining").glob("*/brightness"))


def test_its_stage_is_trained_once_kept_and_written_down(root: Path) -> None:
    assert main(words(root, "a")) == 0
    config = config_of(root, "a")
    assert [record.name for record in config.stages] == ["brightness", "finetune"]
    own, finetune = config.stages
    assert (own.kind, own.settings) == ("outside_stage:Brightness", {"rounds": 3, "rate": 0.1})
    assert finetune.settings["learning_rate"] == 1e-3
    (folder,) = made(root)
    assert folder.parent.name == own.key
    assert {path.name for path in folder.iterdir()} >= {"brightness.safetensors", "inputs.json", "record.json"}
    assert len(losses(folder)) == 3
    assert json.loads((folder / "inputs.json").read_text())["settings"] == own.settings
    assert read_stage(own).settings.rounds == 3
    before = (folder / "log.jsonl").stat().st_mtime_ns
    assert main(words(root, "b", "--set", "finetune.dice=0.5")) == 0
    assert made(root) == [folder]
    assert (folder / "log.jsonl").stat().st_mtime_ns == before


def test_its_settings_and_its_name_are_arguments_like_all_others(root: Path) -> None:
    before = set(made(root))
    assert main(words(root, "c", "--set", "brightness.rounds=2", "--stage", "brightness")) == 0
    (folder,) = set(made(root)) - before
    assert len(losses(folder)) == 2
    assert not (root / "results" / NAME / f"{RUN}c").exists()


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (["--set", "brightness.round=2"], "E-SET-01"),
        (["--set", "brightness.rounds=2.5"], "E-SET-03"),
        (["--stage", "brightnes"], "E-STAGE-01"),
        (["--recipe", "scratch"], "E-RECIPE-01"),
    ],
)
def test_what_it_does_not_have_is_refused(
    root: Path, more: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [word for word in words(root, "d", *more) if word != "--debug"]
    assert main(said) == 2
    assert capsys.readouterr().err.startswith(code)
