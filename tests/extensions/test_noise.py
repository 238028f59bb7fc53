"""A noise that is added from outside the repository, named as ``package.module:Class``: one class with its options."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.errors import UsageError
from samora_pipeline.paths import resolve_roots
from tests.trainers.small_data import make_dataset
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request
from trainers.settings import EXPERT_PIXEL
from trainers.stages.stage import run_stage

NOISE = '''
from dataclasses import dataclass

import torch

from samora_pipeline.slices.views import draw_uniform


class Speckle:
    """Every pixel is multiplied by a number near one."""

    applied = []

    @dataclass(frozen=True)
    class Options:
        strength: float = 0.1

    def __init__(self, options):
        self.options = options

    def draw(self, keys, *, seed, epoch):
        return self.options.strength * draw_uniform(keys, 1, "speckle", seed=seed, epoch=epoch)

    def apply(self, images, drawn, rician):
        self.applied.append(float(drawn.max()))
        return images * (1 + drawn[..., None, None].to(images) * torch.randn_like(images))
'''
NAMED = "expert_pixel.noise.name=outside_noise:Speckle"
BASIC = Request("90", "SAMoraTrainer", "2cases", recipe="scratch", levels=("pixel",), backbone="samora_tiny")
SHORT = tuple(f"expert_pixel.{name}" for name in ("epochs=1", "steps_per_epoch=3", "batch=2"))


@pytest.fixture(autouse=True)
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of a user's own, importable as if its package were installed."""
    (tmp_path / "outside_noise.py").write_text(NOISE, encoding="utf-8")
    monkeypatch.delitem(sys.modules, "outside_noise", raising=False)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "root")


def planned(root: Path, *assignments: str) -> PlannedRun:
    return plan_run(replace(BASIC, assignments=(*SHORT, *assignments)), resolve_roots(str(root)))


def test_an_expert_learns_to_remove_it(root: Path) -> None:
    usual, run = planned(root), planned(root, "expert_pixel.noise.strength=0.4", NAMED)
    record = run.config.stage(EXPERT_PIXEL)
    assert record is not None
    assert record.settings["noise"] == {"name": "outside_noise:Speckle", "options": {"strength": 0.4}}
    records = [one.config.stage(EXPERT_PIXEL) for one in (usual, run, planned(root, NAMED))]
    assert len({one.key for one in records if one is not None}) == 3
    stage = run.context.stages[EXPERT_PIXEL]
    run_stage(stage, run.config, run.context, stage.digest)
    expert = load_checkpoint(stage.result(run.context))
    assert any(value.any() for name, value in expert.tensors.items() if name.endswith("_b"))
    applied = sys.modules["outside_noise"].Speckle.applied
    assert applied
    assert 0.1 < max(applied) <= 0.4


@pytest.mark.parametrize(
    ("assignments", "code"),
    [
        ((NAMED, "expert_pixel.noise.strong=1"), "E-SET-01"),
        ((NAMED, "expert_pixel.noise.sigma=0.1,0.2"), "E-SET-01"),
        ((NAMED, "expert_pixel.noise.strength=much"), "E-SET-03"),
        (("expert_pixel.noise.name=outside_noise:Other",), "E-NAME-01"),
    ],
)
def test_its_options_are_checked_by_its_own_dataclass(root: Path, assignments: tuple[str, ...], code: str) -> None:
    with pytest.raises(UsageError) as caught:
        planned(root, *assignments)
    assert caught.value.code == code
