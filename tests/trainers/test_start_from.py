"""--start-from: the weights that a run begins with, what it may not start from, and sessions that are killed."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, RunConfig
from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.models.assembly import trained_state
from samora_pipeline.paths import resolve_roots
from tests.trainers.runs import command, final, fold_folder, session, short
from tests.trainers.small_data import SCORED, make_dataset
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request
from trainers.settings import FINETUNE
from trainers.stages.finetune import Finetune

FIRST = "UNetTrainer__2cases__first"
LATER = Request("90", "UNetTrainer", "3cases", start_from="first", precision="fp32")


def words(root: Path, name: str, *more: str, split: str = "2cases") -> list[str]:
    options = ["--root", str(root), "--device", "cpu", "--debug", "--precision", "fp32", "--name", name]
    return ["90", "UNetTrainer", split, *options, *short(FINETUNE), *more]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The balls, and a finished run on two of them."""
    folder = make_dataset(tmp_path_factory.mktemp("start_from"))
    assert session(words(folder, "first")) == 0
    return folder


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return shutil.copytree(root, tmp_path / "root")


def first_network(plan: PlannedRun) -> dict[str, torch.Tensor]:
    stage = plan.context.stages[FINETUNE]
    assert isinstance(stage, Finetune)
    return trained_state(stage.network(plan.config, plan.context))


def test_a_run_begins_with_the_weights_of_another(root: Path) -> None:
    plan = plan_run(LATER, resolve_roots(str(root)))
    kept = final(root, FIRST).tensors
    own = first_network(plan)
    assert own.keys() == kept.keys()
    assert all(torch.equal(own[name], kept[name]) for name in kept)
    fresh = first_network(plan_run(replace(LATER, start_from=None), resolve_roots(str(root))))
    assert not all(torch.equal(fresh[name], kept[name]) for name in kept)
    start = plan.config.started_from
    assert start is not None
    assert start.run.endswith(f"{FIRST}/fold_0")
    assert set(read_json(RunConfig, fold_folder(root, FIRST) / CONFIG_FILE).selection.cases) <= set(start.seen)


@pytest.mark.slow
def test_experts_come_with_the_run_and_are_not_trained_again(copy: Path) -> None:
    assert session(command(copy, "--name", "experts", "--recipe", "scratch")) == 0
    request = Request(
        "90",
        "SAMoraTrainer",
        "3cases",
        backbone="samora_tiny",
        backbone_weights="bootstrap",
        recipe="scratch",
        start_from="experts",
        assignments=tuple(word for word in short("bootstrap") if word != "--set"),
    )
    with pytest.raises(DataError, match="E-START-02") as caught:
        plan_run(replace(request, assignments=()), resolve_roots(str(copy)))
    assert "base encoder" in caught.value.what
    plan = plan_run(request, resolve_roots(str(copy)))
    assert [stage.name for stage in plan.config.stages] == ["bootstrap", FINETUNE]
    kept = final(copy, "SAMoraTrainer__2cases__experts").tensors
    own = first_network(plan)
    experts = [name for name in kept if ".experts." in name]
    assert experts
    assert all(torch.equal(own[name], kept[name]) for name in experts)


def test_a_killed_session_goes_on_to_the_same_weights(copy: Path) -> None:
    later = ("--start-from", "first")
    assert session(words(copy, "whole", *later, split="3cases")) == 0
    killed = words(copy, "killed", *later, split="3cases")
    assert session(killed, at=(FINETUNE, 2, signal.SIGKILL)) != 0
    assert session([*killed, "-c"]) == 0
    once, twice = (final(copy, f"UNetTrainer__3cases__{name}").tensors for name in ("whole", "killed"))
    assert all(torch.equal(once[name], twice[name]) for name in once)
    # What it starts from is a part of the run.
    assert session([*words(copy, "whole", split="3cases"), "-c"]) == 4


@pytest.mark.parametrize("second_hand", [False, True])
def test_a_run_that_has_seen_what_is_scored_is_refused(copy: Path, second_hand: bool) -> None:
    file = fold_folder(copy, FIRST) / CONFIG_FILE
    config = read_json(RunConfig, file)
    if second_hand:
        start = plan_run(LATER, resolve_roots(str(copy))).config.started_from
        assert start is not None
        config = replace(config, started_from=replace(start, seen=(SCORED[0],)))
    else:
        config = replace(config, selection=replace(config.selection, cases=("case_1", SCORED[0])))
    write_json(config, file)
    with pytest.raises(DataError, match="E-START-03") as caught:
        plan_run(LATER, resolve_roots(str(copy)))
    assert SCORED[0] in caught.value.found


def test_what_cannot_be_started_from_is_refused(copy: Path) -> None:
    roots = resolve_roots(str(copy))
    for request in (replace(LATER, start_from="nobody"), replace(LATER, fold="1")):
        with pytest.raises(AssetError, match="E-START-01"):
            plan_run(request, roots)
    with pytest.raises(DataError, match="E-START-02") as caught:
        plan_run(replace(LATER, trainer="UNet3DTrainer"), roots)
    assert "network" in caught.value.what
    plan = plan_run(LATER, roots)
    checkpoint = fold_folder(copy, FIRST) / FINAL_CHECKPOINT
    checkpoint.write_bytes(checkpoint.read_bytes()[:-4] + b"1234")
    with pytest.raises(DataError, match="E-START-04"):
        first_network(plan)


def test_the_fold_all_starts_from_one_that_has_seen_everything(copy: Path) -> None:
    fold = fold_folder(copy, FIRST)
    shutil.copytree(fold, fold.with_name("fold_all"))
    file = fold.with_name("fold_all") / CONFIG_FILE
    config = read_json(RunConfig, file)
    cases = ("case_1", SCORED[0])
    write_json(replace(config, fold="all", selection=replace(config.selection, fold="all", cases=cases)), file)
    start = plan_run(replace(LATER, fold="all"), resolve_roots(str(copy))).config.started_from
    assert start is not None
    assert SCORED[0] in start.seen
