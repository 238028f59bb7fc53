from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

from trainers.loop.loading import on_device, read_ahead, read_batches


def test_shares_come_in_order_from_one_thread_and_not_far_ahead() -> None:
    begun: list[int] = []
    threads = set()

    def prepare(share: int) -> int:
        begun.append(share)
        threads.add(threading.get_ident())
        time.sleep(0.01)
        return share * share

    ahead = []
    for number, value in enumerate(read_ahead(range(12), prepare)):
        assert value == number * number
        ahead.append(len(begun) - number)
        time.sleep(0.03)
    assert begun == list(range(12))
    assert max(ahead) <= 4
    assert max(ahead) > 1
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_an_error_reaches_the_loop_and_a_reader_that_is_left_stops() -> None:
    def prepare(share: int) -> int:
        if share == 2:
            raise ValueError("slice 2")
        return share

    with pytest.raises(ValueError, match="slice 2"):
        list(read_ahead(range(5), prepare))
    reader: Any = read_ahead(range(10**6), prepare)
    next(reader)
    reader.close()


def test_on_a_cpu_batches_are_read_when_they_are_needed() -> None:
    read = []

    def prepare(share: list[int], epoch: int) -> dict[str, Any]:
        read.append((share, epoch))
        return {"n": None}

    batches = read_batches(prepare, [[1], [2]], 7, torch.device("cpu"))
    assert read == []
    next(batches)
    assert read == [([1], 7)]


def test_only_tensors_are_moved() -> None:
    drawn = object()
    moved = on_device({"x": torch.zeros(2), "drawn": drawn}, torch.device("meta"))
    assert moved["x"].device.type == "meta"
    assert moved["drawn"] is drawn
