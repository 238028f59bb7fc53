"""The precision of a run: chosen once, recorded with its reason, and the one in which the loop computes."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.run import CONFIG_FILE, LATEST_CHECKPOINT, Choice, RunConfig
from samora_pipeline.errors import DataError
from samora_pipeline.inference.precision import Arithmetic, pick_arithmetic
from samora_pipeline.inference.record import PredictionRecord
from samora_pipeline.paths import resolve_roots
from tests.trainers import toy
from tests.trainers.runs import command, final, fold_folder, session
from tests.trainers.small_data import make_dataset
from trainers.loop.loop import train
from trainers.runs import precision
from trainers.runs.folder import write_config
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request

CPU = torch.device("cpu")
BASIC = Request("90", "SAMoraTrainer", "2cases", backbone="samora_tiny", backbone_weights="bootstrap", name="a")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture
def root(data: Path, tmp_path: Path) -> Path:
    shutil.copytree(data, tmp_path / "root")
    return tmp_path / "root"


def plan(root: Path, device: torch.device | None = CPU, **changes: Any) -> PlannedRun:
    return plan_run(replace(BASIC, **changes), resolve_roots(str(root)), device)


def measured(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    found = Arithmetic(dtype, "timed: product 1.0 ms in bf16 and 2.0 in fp32")
    real = pick_arithmetic
    monkeypatch.setattr(
        precision,
        "pick_arithmetic",
        lambda device, asked="auto", *rest, **how: found if asked == "auto" else real(device, asked),
    )


def test_what_was_measured_first_stays(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(monkeypatch, torch.bfloat16)
    first = plan(root)
    choice = Choice("bf16", "timed: product 1.0 ms in bf16 and 2.0 in fp32")
    assert first.config.choices["precision"] == choice
    assert first.context.arithmetic.name == "bf16"
    write_config(first.context.folder, first.config)
    assert read_json(RunConfig, first.context.folder / CONFIG_FILE).choices["precision"] == choice
    monkeypatch.undo()
    measured(monkeypatch, torch.float32)
    again = plan(root)
    assert again.config.choices["precision"] == choice
    assert again.context.arithmetic.name == "bf16"
    assert plan(root, name="b").config.choices["precision"].value == "fp32"
    # Another fold may be trained on another machine.
    assert plan(root, fold="1").context.arithmetic.name == "fp32"
    (first.context.folder / LATEST_CHECKPOINT).touch()
    with pytest.raises(DataError) as caught:
        plan(root, precision="fp32")
    assert caught.value.code == "E-RUN-19"
    assert "choices.precision.value bf16 -> fp32" in caught.value.found


def test_what_is_asked_for_is_taken_and_recorded(root: Path) -> None:
    for name in ("bf16", "fp32"):
        planned = plan(root, name=name, precision=name)
        assert planned.config.choices["precision"] == Choice(name, "as asked for")
        assert planned.context.arithmetic.name == name


def test_a_description_times_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "pick_arithmetic", lambda *given, **how: pytest.fail("timed"))
    assert "precision" not in plan(root, None).config.choices


def test_a_run_of_an_earlier_version_goes_on_as_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plan(root, None)
    write_config(first.context.folder, first.config)
    monkeypatch.setattr("samora_pipeline.inference.precision.cpu_bf16_instructions", lambda: "avx512_bf16")
    again = plan(root)
    assert "precision" not in again.config.choices
    assert again.context.arithmetic.name == "fp32"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_loop_computes_in_it(tmp_path: Path, dtype: torch.dtype) -> None:
    training, _ = toy.make(1)
    seen = set()

    def look() -> None:
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)

    def loss(batch: dict[str, Tensor], epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        look()
        return training.loss(batch, epoch)

    watched = replace(training, loss=loss, before_epoch=lambda epoch: look())
    train(watched, replace(toy.loop_context(tmp_path), arithmetic=Arithmetic(dtype)))
    assert seen == {dtype}


@pytest.mark.slow
def test_a_run_in_bfloat16_that_was_killed_ends_bit_equal(root: Path, tmp_path: Path) -> None:
    words = ("--name", "a", "--levels", "pixel")
    other = tmp_path / "other"
    shutil.copytree(root, other)
    assert session(command(root, *words, "--precision", "bf16")) == 0
    killed = session(command(other, *words, "--precision", "bf16"), at=("finetune", 3, signal.SIGKILL))
    assert killed == -signal.SIGKILL
    # What was chosen first stays, so that nobody has to say it again.
    assert session(command(other, *words, "-c")) == 0
    one, two = (final(place, "SAMoraTrainer__2cases__a").tensors for place in (root, other))
    assert all(torch.equal(one[name], two[name]) for name in one)
    validation = fold_folder(root, "SAMoraTrainer__2cases__a") / "validation" / "run.json"
    assert read_json(PredictionRecord, validation).precision == "bf16"
