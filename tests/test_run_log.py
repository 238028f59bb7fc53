from __future__ import annotations

import json
import logging
import time
from pathlib import Path

import pytest

from samora_pipeline.run_log import JsonLines, Progress, duration


def test_the_log_holds_the_history_and_what_follows(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"ep')
    log = JsonLines(path)
    log.start([{"epoch": 1}])
    log.write({"epoch": 2, "loss": 0.5})
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"epoch": 1}, {"epoch": 2, "loss": 0.5}]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_plain_lines_come_at_intervals_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    caplog.set_level(logging.INFO, "samora")
    with Progress("expert_patch", 20, done=4) as progress:
        for number in range(16):
            clock[0] += 3.0
            progress.advance(f"loss {number}")
    assert [record.getMessage() for record in caplog.records] == [
        "expert_patch 5/20 loss 0, about 45 s left",
        "expert_patch 9/20 loss 4, about 33 s left",
        "expert_patch 13/20 loss 8, about 21 s left",
        "expert_patch 17/20 loss 12, about 9 s left",
        "expert_patch 20/20 loss 15, 48 s in all",
    ]


def test_progress_tells_the_end_of_the_run(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = iter((0.0, 60.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    with Progress("expert_pixel", 3, following=600.0) as progress:
        progress.advance("loss 1")
    assert caplog.messages == ["expert_pixel 1/3 loss 1, about 2 min 00 s left, 12 min 00 s of the run"]


def test_a_quiet_progress_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "samora")
    with Progress("finetune", 1, quiet=True) as progress:
        progress.advance("loss 1")
    assert not caplog.records
