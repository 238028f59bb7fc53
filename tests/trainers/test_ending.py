"""Sessions that end at a time or at a signal, and go on as if they had not."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from samora_pipeline import distributed
from samora_pipeline.contracts.checkpoints import load_checkpoint
from tests.trainers import toy
from tests.trainers.processes import exit_code, forked, on_ranks
from tests.trainers.runs import command, draw_nothing, final, fold_folder, losses, session
from tests.trainers.small_data import make_dataset
from trainers.cli import build_parser, main
from trainers.loop import ending, loop
from trainers.loop.ending import TimeLimit, agreed_code
from trainers.loop.loop import train

EPOCHS = 3
CPU = torch.device("cpu")
RUN = "SAMoraTrainer__2cases__a"


class Clock:
    """Stands for the module ``time``; it goes on where a test says so."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (loop, ending):
        monkeypatch.setattr(module, "time", made)
    return made


def _session(folder: Path, clock: Clock, seconds: float) -> tuple[int, dict[str, Tensor]]:
    """Train the toy, each of whose steps takes ten seconds; return the exit code and the weights."""
    training, network = toy.make(EPOCHS)

    def loss(batch: dict[str, Tensor], epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        clock.now += 10.0
        return training.loss(batch, epoch)

    where = dataclasses.replace(toy.loop_context(folder), limit=TimeLimit(seconds / 3600, clock.now + seconds))
    try:
        train(dataclasses.replace(training, loss=loss), where)
    except SystemExit as stop:
        return int(stop.code or 0), {}
    return 0, dict(network.state_dict())


def _position(folder: Path) -> tuple[int, int]:
    state = load_checkpoint(folder / "checkpoint_latest.safetensors").record["state"]
    return state["epoch"], state["step"]


@pytest.mark.parametrize(
    ("seconds", "position"),
    [
        (5, (0, 1)),  # the first epoch of a session is always begun, and cut at a step
        (25, (0, 3)),
        (59, (1, 3)),  # a second epoch would end after 60 s
        (61, (2, 6)),
        (89, (2, 6)),
    ],
)
def test_a_session_ends_with_the_last_epoch_that_fits(
    tmp_path: Path, clock: Clock, seconds: float, position: tuple[int, int]
) -> None:
    assert _session(tmp_path, clock, seconds)[0] == 75
    assert _position(tmp_path) == position


def test_sessions_too_short_for_an_epoch_still_come_to_the_same_end(tmp_path: Path, clock: Clock) -> None:
    _, whole = _session(tmp_path / "whole", clock, 1e6)
    codes: list[int] = []
    while not codes or codes[-1]:
        code, weights = _session(tmp_path / "parts", clock, 15.0)
        codes.append(code)
    assert codes[-1] == 0
    assert set(codes[:-1]) == {75}
    assert len(codes) >= 4
    assert all(torch.equal(whole[name], weights[name]) for name in whole)


def test_a_stage_is_not_begun_without_time_left(clock: Clock) -> None:
    limit = TimeLimit.of(1.0, since=clock.now)
    limit.leave("finetune", "samora_train -c", CPU)
    clock.now += 3600.0
    with pytest.raises(SystemExit) as stop:
        limit.leave("finetune", "samora_train -c", CPU)
    assert stop.value.code == 75


def test_an_alarm_ends_what_is_kept_case_by_case() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(SystemExit) as stop, TimeLimit.of(0.1 / 3600, since=time.monotonic()).alarm():
        time.sleep(20)
    assert stop.value.code == 75
    with TimeLimit.of(1.0, since=time.monotonic()).alarm():
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize(("number", "over", "code"), [(signal.SIGUSR1, True, 138), (0, True, 75), (0, False, 0)])
def test_ranks_end_together_with_one_code(number: int, over: bool, code: int) -> None:
    def work() -> int:
        distributed.start(CPU)
        first = distributed.is_main()
        found = agreed_code(0 if first else number, over=over and first, device=CPU)
        distributed.stop()
        return found

    assert on_ranks(2, work) == [code, code]


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "soon"])
def test_hours_that_leave_no_time_are_refused(hours: str) -> None:
    with pytest.raises(TypeError, match="--max-hours"):
        build_parser().parsed(["1", "SAMoraTrainer", "full", "--max-hours", hours])


def _with_leap(words: list[str], stage: str, step: int, hours: float) -> int:
    """Run the command in a child in which one step of a stage takes that many hours."""

    def work() -> int:
        torch.set_num_threads(1)
        draw_nothing()
        original, leaps = loop._Loop._step, [hours * 3600]

        class Leaping:
            ahead = 0.0

            def monotonic(self) -> float:
                return time.monotonic() + self.ahead

        clock = Leaping()
        for module in (loop, ending):
            module.time = clock  # type: ignore[attr-defined]

        def slow_step(self: Any, parts: Any, loaded: Any, batch: Any) -> float | None:
            if self.training.stage == stage and self.state.step + 1 == step and leaps:
                clock.ahead += leaps.pop()
            return original(self, parts, loaded, batch)

        loop._Loop._step = slow_step  # type: ignore[method-assign]
        return main(words)

    return exit_code(forked(work))


def test_runs_out_of_time_end_bit_equal(tmp_path: Path) -> None:
    whole, root = make_dataset(tmp_path / "whole"), make_dataset(tmp_path / "parts")
    assert session(command(whole, "--name", "a")) == 0
    words = command(root, "--name", "a", "-c", "--max-hours", "1")
    # An epoch of 0.6 h: the second does not fit. A step of two hours: the epoch is left in its middle.
    for stage, step, hours, position in (("expert_patch", 1, 0.6, (1, 2)), ("finetune", 3, 2.0, (1, 3))):
        assert _with_leap(words, stage, step, hours) == 75
        (saved,) = root.rglob("checkpoint_latest.safetensors")
        assert (saved.parent.name == stage) == (stage != "finetune")
        assert _position(saved.parent) == position
    assert session(words) == 0
    one, other = final(whole, RUN).tensors, final(root, RUN).tensors
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert losses(fold_folder(whole, RUN)) == losses(fold_folder(root, RUN))
