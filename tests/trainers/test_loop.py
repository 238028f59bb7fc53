from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.errors import DataError
from tests.trainers import toy
from tests.trainers.processes import exit_code, forked, on_ranks
from trainers.loop.loop import train

EPOCHS = 3


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    training, network = toy.make(EPOCHS)
    train(training, toy.loop_context(tmp_path_factory.mktemp("whole")))
    return {name: value.clone() for name, value in network.state_dict().items()}


def _equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_loss_falls_and_one_line_per_epoch_is_logged(tmp_path: Path) -> None:
    training, _ = toy.make(12)
    history = train(training, toy.loop_context(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines == history
    assert [line["epoch"] for line in lines] == list(range(1, 13))
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[0]["twice"] == pytest.approx(2 * lines[0]["loss"])
    assert {"lr", "seconds", "slices_per_second", "data_wait", "memory_gib", "gradient_norm"} <= set(lines[0])
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_in_two_sessions_equals_one(tmp_path: Path, uninterrupted: dict[str, Tensor]) -> None:
    first, _ = toy.make(EPOCHS)
    # The schedule is a function of the step, so a shorter session differs in nothing but its end.
    train(dataclasses.replace(first, epochs=1), toy.loop_context(tmp_path))
    training, network = toy.make(EPOCHS)
    history = train(training, toy.loop_context(tmp_path))
    assert _equal(network.state_dict(), uninterrupted)
    assert [line["epoch"] for line in history] == [1, 2, 3]


@pytest.mark.parametrize("kill_at", [2, 5, 7])
def test_a_killed_training_goes_on_bit_for_bit(tmp_path: Path, uninterrupted: dict[str, Tensor], kill_at: int) -> None:
    assert exit_code(forked(lambda: toy.run(tmp_path, EPOCHS, kill_at=kill_at))) == -signal.SIGKILL
    training, network = toy.make(EPOCHS)
    history = train(training, toy.loop_context(tmp_path))
    assert _equal(network.state_dict(), uninterrupted)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3] == [line["epoch"] for line in history]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGINT, 130)])
def test_a_signal_ends_after_the_step_under_way_and_the_rest_follows(
    tmp_path: Path, uninterrupted: dict[str, Tensor], number: signal.Signals, code: int
) -> None:
    process = forked(lambda: toy.run(tmp_path, EPOCHS, pause=0.2))
    deadline = time.monotonic() + 30
    while not (tmp_path / "log.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    os.kill(process.pid or 0, number)
    assert exit_code(process) == code
    stopped_at = load_checkpoint(tmp_path / "checkpoint_latest.safetensors").record["state"]["step"]
    assert 0 < stopped_at < 3 * EPOCHS
    training, network = toy.make(EPOCHS)
    train(training, toy.loop_context(tmp_path))
    assert _equal(network.state_dict(), uninterrupted)


def test_two_ranks_give_the_curve_of_one(tmp_path: Path, uninterrupted: dict[str, Tensor]) -> None:
    assert on_ranks(2, lambda: toy.run(tmp_path, EPOCHS)) == [0, 0]
    together = load_checkpoint(tmp_path / toy.WEIGHTS).tensors
    for name, value in uninterrupted.items():
        torch.testing.assert_close(together[name], value, rtol=1e-5, atol=1e-6)


def test_accumulation_of_a_mean_equals_the_whole_batch(tmp_path: Path, uninterrupted: dict[str, Tensor]) -> None:
    training, network = toy.make(EPOCHS, micro_batch=3)

    def without_noise(batch: dict[str, Tensor], epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        return (network(batch["x"]) - batch["x"]).square().mean(), {}

    train(dataclasses.replace(training, loss=without_noise), toy.loop_context(tmp_path / "parts"))
    parts = {name: value.clone() for name, value in network.state_dict().items()}
    whole, network = toy.make(EPOCHS)
    train(dataclasses.replace(whole, loss=without_noise), toy.loop_context(tmp_path / "whole"))
    for name, value in network.state_dict().items():
        torch.testing.assert_close(parts[name], value, rtol=1e-5, atol=1e-6)


def test_a_step_that_is_not_finite_is_skipped_and_counted(tmp_path: Path) -> None:
    training, network = toy.make(EPOCHS)

    def poisoned(batch: dict[str, Tensor], epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss, metrics = training.loss(batch, epoch)
        return loss * (float("nan") if 7 in batch["index"].tolist() else 1.0), metrics

    history = train(dataclasses.replace(training, loss=poisoned), toy.loop_context(tmp_path))
    assert [line["skipped_steps"] for line in history] == [1, 2, 3]
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())
    assert all(line["loss"] == line["loss"] for line in history)


def test_a_training_that_never_is_finite_ends_with_an_error(tmp_path: Path) -> None:
    training, _ = toy.make(20)
    bad = dataclasses.replace(training, loss=lambda batch, epoch: (training.loss(batch, epoch)[0] * float("inf"), {}))
    with pytest.raises(DataError, match="E-TRAIN-01"):
        train(bad, toy.loop_context(tmp_path))


def test_the_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    training, _ = toy.make(1)
    train(training, toy.loop_context(tmp_path, digest="a" * 64))
    again, _ = toy.make(2)
    with pytest.raises(DataError, match="E-RUN-19"):
        train(again, toy.loop_context(tmp_path, digest="b" * 64))


def test_the_first_step_is_verified_once_per_process(tmp_path: Path) -> None:
    calls = []
    for epochs in (1, 2):
        training, _ = toy.make(epochs)
        train(dataclasses.replace(training, after_first_step=lambda: calls.append(1)), toy.loop_context(tmp_path))
    assert len(calls) == 2


def test_gradients_are_clipped_when_the_stage_asks(tmp_path: Path) -> None:
    training, network = toy.make(1)
    optimizer = torch.optim.SGD(network.parameters())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    one_step = dataclasses.replace(
        training,
        optimizer=optimizer,
        clip_norm=1e-3,
        learning_rate=lambda step: 1.0,
        batches=lambda epoch: toy.batches(epoch)[:1],
    )
    train(one_step, toy.loop_context(tmp_path))
    moved = torch.cat([(value - before[name]).flatten() for name, value in network.state_dict().items()])
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)
