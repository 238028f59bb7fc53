from __future__ import annotations

import builtins
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samora_pipeline.errors import AssetError
from samora_pipeline.run_log import TensorBoard
from tests.trainers.toy import loop_context, make
from trainers.loop.loop import TENSORBOARD_FOLDER, train

LINES = [{"stage": "finetune", "epoch": epoch, "loss": 1.0 / epoch, "lr": 0.1} for epoch in (1, 2, 3)]


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads from the folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(point.step, round(point.value, 6)) for point in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_reads_the_curves_and_nothing_beyond_the_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    sink = TensorBoard(tmp_path)
    sink.start([])
    for line in LINES:
        sink.write(line)
    assert curves(tmp_path) == {
        "finetune/loss": [(1, 1.0), (2, 0.5), (3, round(1 / 3, 6))],
        "finetune/lr": [(epoch, 0.1) for epoch in (1, 2, 3)],
    }
    resumed = TensorBoard(tmp_path)
    resumed.start(LINES[:1])
    resumed.write({**LINES[1], "loss": 0.25})
    assert curves(tmp_path)["finetune/loss"] == [(1, 1.0), (2, 0.25)]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError("No module named 'tensorboard'")
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(AssetError, match="E-LOG-01"):
        TensorBoard(tmp_path)


def test_the_training_loop_feeds_it_the_lines_of_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    training, _ = make(2)
    history = train(training, replace(loop_context(tmp_path), tensorboard=True))
    found = curves(tmp_path / TENSORBOARD_FOLDER)
    assert [value for _, value in found["toy/loss"]] == pytest.approx([line["loss"] for line in history], abs=1e-5)
    train(make(2)[0], loop_context(tmp_path / "without"))
    assert not (tmp_path / "without" / TENSORBOARD_FOLDER).exists()
