"""What is chosen where nothing is typed: by device, files, data and time."""

import shutil
import sys
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch

from samora_pipeline.contracts.model_spec import LEVELS
from samora_pipeline.contracts.plans import Planned
from samora_pipeline.contracts.run import Choice
from samora_pipeline.paths import resolve_roots
from samora_pipeline.weights.catalog import ASSETS
from tests.fake_run import make_plans
from tests.trainers.small_data import make_dataset
from trainers import cli
from trainers.loop.memory import Fit
from trainers.methods import TRAINERS
from trainers.pool.datasets import open_dataset
from trainers.runs import automatic
from trainers.runs.automatic import (
    Machine,
    choose_base,
    choose_consistency,
    choose_input_size,
    choose_minutes,
    refused,
)
from trainers.runs.budget import fit_epochs, with_epochs
from trainers.runs.choices import choose_method
from trainers.runs.data import labelled_share
from trainers.runs.folder import write_config
from trainers.runs.naming import run_name
from trainers.runs.planning import plan_run, with_estimates
from trainers.runs.request import Request, resolve
from trainers.stages.probe import StageCost

SAMORA = Request("1", "SAMoraTrainer", "10pct")
CPU = torch.device("cpu")
GPU = torch.device("cuda")


def _chosen(request: Request, machine: Machine) -> dict[str, object]:
    choices = choose_base(TRAINERS.get(request.trainer)(), resolve(request), machine)
    return {name: choice.value for name, choice in choices.items()}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automatic, "reachable", lambda url: False)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automatic, "reachable", lambda url: True)


def _with_weights(folder: Path, *names: str) -> Path:
    for name in names:
        path = ASSETS[name].path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def test_without_a_gpu_the_packaged_backbone_is_trained(tmp_path: Path, online: None) -> None:
    machine = Machine(CPU, 8 << 30, _with_weights(tmp_path, "sam_vit_b", "mae_vit_l_full"))
    assert _chosen(SAMORA, machine) == {"backbone": "samora_small", "recipe": "none"}
    assert _chosen(replace(SAMORA, trainer="HSAMoraTrainer"), machine) == {
        "backbone": "samora_tiny",
        "recipe": "scratch",
    }
    assert _chosen(replace(SAMORA, trainer="SAMora2Trainer"), machine) == {
        "backbone": "samora2_tiny",
        "backbone_weights": "bootstrap",
        "recipe": "scratch",
    }
    assert _chosen(replace(SAMORA, trainer="SAMedTrainer"), machine) == {"backbone": "samora_small", "recipe": "none"}


def test_with_a_gpu_and_a_network_the_papers_backbone_is_trained(tmp_path: Path, online: None) -> None:
    machine = Machine(GPU, 8 << 30, tmp_path)
    # MAE's licence was not accepted.
    assert _chosen(SAMORA, machine) == {"backbone": "sam_vit_b", "recipe": "scratch"}
    assert _chosen(SAMORA, replace(machine, accepts=True)) == {"backbone": "sam_vit_b", "recipe": "full"}


def test_a_gpu_without_network_and_files_takes_the_packaged_backbone(tmp_path: Path, offline: None) -> None:
    machine = Machine(GPU, 8 << 30, tmp_path)
    assert _chosen(SAMORA, machine) == {"backbone": "samora_small", "recipe": "none"}
    _with_weights(tmp_path, "sam_vit_b")
    assert _chosen(SAMORA, machine) == {"backbone": "sam_vit_b", "recipe": "scratch"}


def test_what_is_typed_is_not_chosen(tmp_path: Path, offline: None) -> None:
    machine = Machine(CPU, 8 << 30, tmp_path)
    assert _chosen(replace(SAMORA, backbone="sam_vit_b", recipe="full"), machine) == {}
    assert _chosen(replace(SAMORA, backbone_weights="own.pth"), machine) == {"recipe": "scratch"}
    assert _chosen(replace(SAMORA, preset="table5-image-cpt"), machine) == {"backbone": "samora_tiny"}


@pytest.mark.parametrize(
    ("changes", "backbone"),
    [
        ({"levels": ("image",)}, "samora_tiny"),
        ({"recipe": "scratch"}, "samora_tiny"),
        ({"recipe": "none"}, "samora_small"),
        ({"assignments": ("fusion=lac",)}, "samora_tiny"),
        ({"assignments": ("expert_image.epochs=3",)}, "samora_tiny"),
        ({"assignments": ("finetune.epochs=3",)}, "samora_small"),
    ],
)
def test_who_names_experts_has_a_backbone_with_experts(
    tmp_path: Path, offline: None, changes: dict[str, Any], backbone: str
) -> None:
    assert _chosen(replace(SAMORA, **changes), Machine(CPU, 8 << 30, tmp_path))["backbone"] == backbone


@pytest.mark.parametrize(
    ("sides", "small", "expected"),
    [([35, 51, 48], True, 128), ([256], True, 128), ([320, 320], True, 160), ([512], True, 224), ([51], False, 224)],
)
def test_the_input_size_follows_the_slices(sides: list[int], small: bool, expected: int) -> None:
    plans = replace(make_plans(), input_size=Planned(None, "tests"))
    assert choose_input_size(plans, sides, small=small).value == expected
    preferred = replace(plans, input_size=Planned(512, "typed"))
    assert choose_input_size(preferred, sides, small=small) == Choice(512, "typed")


def test_a_budget_holds_where_everything_was_chosen() -> None:
    cpu, gpu = Machine(CPU, 1, Path()), Machine(GPU, 1, Path())
    tiny, large = {"backbone": Choice("samora_tiny", "")}, {"backbone": Choice("sam_vit_b", "")}
    assert choose_minutes(SAMORA, cpu, tiny) == 10
    assert choose_minutes(SAMORA, gpu, large) is choose_minutes(SAMORA, gpu, tiny) is None
    assert choose_minutes(SAMORA, cpu, {}) is None
    assert choose_minutes(SAMORA, cpu, tiny | {"consistency": Choice(True, "")}) == 30
    assert choose_minutes(SAMORA, cpu, tiny | {"consistency": Choice(False, "")}) == 10
    assert choose_minutes(replace(SAMORA, minutes=3.0), gpu, {}) == 3
    assert choose_minutes(replace(SAMORA, minutes=3.0, fast=True), cpu, tiny) is None


@pytest.mark.parametrize(
    ("changes", "labelled", "expected"),
    [
        ({}, 0.07, True),
        ({"minutes": 60.0}, 0.07, True),
        ({"minutes": 10.0}, 0.07, False),  # too short for it
        ({}, 0.8, False),
        ({"consistency": False}, 0.07, None),
        ({"taught_by": ("run",)}, 0.07, None),
        ({"backbone": "samora_tiny"}, 0.07, None),
        ({"backbone": "sam_vit_b"}, 0.07, None),  # the paper's method has none
        ({"trainer": "UNetTrainer", "backbone": None}, 0.07, None),
    ],
)
def test_slices_without_labels_take_part_where_the_base_is_ours(
    changes: dict[str, Any], labelled: float, expected: bool | None
) -> None:
    request = replace(replace(SAMORA, backbone="samora_small"), **changes)
    found = choose_consistency(request, choose_method(request), labelled)
    assert {name: choice.value for name, choice in found.items()} == (
        {} if expected is None else {"consistency": expected}
    )
    method = choose_method(request, found)
    assert (method.finetune.consistency is not None) is bool(expected)
    # What is chosen is the default here, and no change of it.
    assert "consistency" not in method.changes


def test_the_share_of_labelled_slices(data: Path) -> None:
    dataset = open_dataset("90", resolve_roots(str(data)))
    fold = dataset.splits().fold("0")
    stored = {name: case for name, case in dataset.cases.items() if name not in fold.scored and case.subset != "test"}
    cases = {name: case.shape[0] for name, case in stored.items()}
    unlabelled = {name for name, case in stored.items() if case.label_crcs is None}
    assert unlabelled, "a scan without a label map counts too"
    every = 1 - sum(cases[name] for name in unlabelled) / sum(cases.values())
    assert labelled_share(dataset, replace(SAMORA, split="full"), "0") == pytest.approx(every)
    two = labelled_share(dataset, replace(SAMORA, split="2cases"), "0")
    assert 2 * min(cases.values()) <= two * sum(cases.values()) <= 2 * max(cases.values())
    assert labelled_share(dataset, replace(SAMORA, split="6slices"), "0") == 6 / sum(cases.values())


def _cost(seconds: float) -> StageCost:
    return StageCost(seconds, 1, 0, Fit(1, 1, recomputes=False, need=0, room=1), 0)


def test_epochs_follow_from_the_minutes() -> None:
    settings = TRAINERS.get("SAMoraTrainer")().stages("scratch", LEVELS, small=True)
    experts = [name for name in settings if name.startswith("expert")]
    costs = {**{name: _cost(20.0) for name in experts}, "finetune": _cost(54.0)}
    # A minute of stage 1, which may stay; nine minutes at a second an epoch.
    assert {name: one.value for name, one in fit_epochs(settings, costs, 10, frozenset()).items()} == {
        "finetune.epochs": 540
    }
    # Stage 1 halved twice is 15 of 120 s.
    shorter = fit_epochs(settings, costs, 2, frozenset())
    assert {name: one.value for name, one in shorter.items()} == {
        **{f"{name}.epochs": 2 for name in experts},
        "finetune.epochs": 90,
    }
    sized = with_epochs(settings, shorter)
    assert [sized[name].epochs for name in (*experts, "finetune")] == [2, 2, 2, 90]
    # What is typed stays.
    assert "finetune.epochs" not in fit_epochs(settings, costs, 2, frozenset({"finetune.epochs"}))
    assert fit_epochs(settings, {"finetune": _cost(54_000.0)}, 1, frozenset())["finetune.epochs"].value == 1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "default"),
        ({"backbone": "samora_tiny", "assignments": ("finetune.epochs=20",)}, "tiny-epochs20"),
        ({"preset": "table4-lac"}, "fusion-lac"),
        ({"assignments": ("fusion=lac",)}, "fusion-lac"),
        ({"assignments": ("expert_image.epochs=3",)}, "expert-image.epochs3"),
        ({"minutes": 2.5, "seed": 1}, "2.5min-seed1"),
        ({"levels": ("image", "pixel"), "recipe": "scratch"}, "scratch-image-pixel"),
        ({"consistency": True, "seed": 1}, "consistency-seed1"),
        ({"consistency": False}, "no-consistency"),
        ({"name": "mine", "seed": 3}, "mine"),
        ({"fast": True}, "fast-dev-run"),
    ],
)
def test_names_say_what_was_typed(changes: dict[str, Any], name: str) -> None:
    assert run_name(resolve(replace(replace(SAMORA, trainer="HSAMoraTrainer"), **changes))) == name


def test_words_that_had_to_be_changed_stay_apart() -> None:
    names = {run_name(replace(SAMORA, backbone_weights=f"{word}.pth")) for word in ("a b", "a:b", "a-b")}
    assert len(names) == 3
    long = {run_name(replace(SAMORA, unlabeled=("D" * 80 + end,))) for end in "ab"}
    assert len(long) == 2
    assert all(len(name) < 80 and "__" not in name for name in (*names, *long))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


def test_a_run_keeps_its_choices_elsewhere(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: None
) -> None:
    shutil.copytree(data, tmp_path / "root")
    roots = resolve_roots(str(tmp_path / "root"))
    request = Request("90", "HSAMoraTrainer", "2cases", minutes=0.2)
    first = plan_run(request, roots)
    assert first.config.choices["backbone"].value == "samora_tiny"
    assert first.config.choices["finetune.epochs"].value == first.context.stages["finetune"].settings.epochs
    assert set(first.config.estimates) == {"expert_image", "expert_patch", "expert_pixel", "finetune"}
    assert with_estimates(first) is first
    write_config(first.context.folder, first.config)
    # On another machine, with more of everything.
    monkeypatch.setattr(automatic, "this_machine", lambda *_, **__: Machine(CPU, 1 << 40, tmp_path))
    again = plan_run(replace(request, fold="1"), roots)
    assert again.config.choices == first.config.choices
    assert again.context.folder.parent == first.context.folder.parent
    assert [record.key for record in again.config.stages] != []
    assert again.config.stage("finetune") == first.config.stage("finetune")


def test_predictions_are_in_the_range_of_what_is_measured(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "root")
    roots = resolve_roots(str(tmp_path / "root"))
    before = sorted((tmp_path / "root").rglob("*"))
    run = with_estimates(plan_run(Request("90", "SAMoraTrainer", "2cases", backbone="samora_tiny"), roots))
    assert all(
        0 < one.minutes < 60 and 0.1 < one.gib < 4 and 0 < one.disk_gib < 1 for one in run.config.estimates.values()
    )
    assert sorted((tmp_path / "root").rglob("*")) == before


def test_files_that_only_their_licence_keeps_away_are_named(tmp_path: Path, online: None) -> None:
    machine = Machine(GPU, 8 << 30, tmp_path)
    assert [asset.name for asset in refused(resolve(SAMORA), machine)] == ["mae_vit_l_full"]
    assert refused(resolve(SAMORA), replace(machine, accepts=True)) == []
    assert refused(resolve(replace(SAMORA, recipe="scratch")), machine) == []
    assert refused(resolve(SAMORA), Machine(CPU, 8 << 30, tmp_path)) == []


def test_without_a_network_no_licence_is_asked_for(tmp_path: Path, offline: None) -> None:
    machine = Machine(GPU, 8 << 30, _with_weights(tmp_path, "sam_vit_b"))
    assert refused(resolve(SAMORA), machine) == []


@pytest.mark.parametrize(("answer", "accepted"), [("y\n", True), ("\n", False)])
def test_a_licence_is_asked_for_on_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], answer: str, accepted: bool
) -> None:
    monkeypatch.setattr(automatic, "refused", lambda *_: [ASSETS["mae_vit_l_full"]])
    roots = resolve_roots(str(tmp_path))
    assert not cli._accepts_on_terminal(SAMORA, roots, CPU)  # no terminal here
    monkeypatch.setattr("sys.stdin", StringIO(answer))
    for stream in (sys.stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    assert cli._accepts_on_terminal(SAMORA, roots, CPU) is accepted
    assert "CC-BY-NC-4.0" in capsys.readouterr().out
