from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from samora_pipeline import distributed
from samora_pipeline.errors import DataError
from tests.trainers.processes import on_ranks
from trainers.stages import targets
from trainers.stages.targets import TargetStore

SHAPE = (2, 2, 3)


def feature(indices: list[int], view: int) -> Tensor:
    values = torch.tensor([[index + view / 10] for index in indices])
    return (values * torch.arange(1, 13)).reshape(-1, *SHAPE)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "BLOCK", 4)


def test_features_come_back_in_half_precision_in_any_order(tmp_path: Path) -> None:
    store = TargetStore(tmp_path, 10, 2, SHAPE)
    store.fill(feature, 3)
    for view in (0, 1):
        wanted = feature([9, 0, 4, 3], view).half()
        assert torch.equal(store.read([9, 0, 4, 3], view), wanted)
    assert store.bytes == 2 * 10 * (2 * 12 + 4)
    sizes = sum(np.load(path).nbytes for path in tmp_path.rglob("*.npy"))
    assert sizes == store.bytes


def test_filling_goes_on_where_it_stopped(tmp_path: Path) -> None:
    store = TargetStore(tmp_path, 10, 2, SHAPE)
    asked: list[list[int]] = []

    def breaking(indices: list[int], view: int) -> Tensor:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(indices)
        return feature(indices, view)

    with pytest.raises(KeyboardInterrupt):
        store.fill(breaking, 8)
    again: list[tuple[int, int]] = []
    store.fill(lambda indices, view: again.append((view, indices[0])) or feature(indices, view), 8)
    assert again == [(1, 0), (1, 4), (1, 8)]
    store.fill(lambda indices, view: pytest.fail("nothing is missing"), 8)


def test_ranks_that_come_at_different_times_leave_no_block_to_nobody(tmp_path: Path) -> None:
    def work() -> None:
        distributed.start(torch.device("cpu"))
        store = TargetStore(tmp_path, 40, 1, SHAPE)
        if distributed.rank() == 0:
            time.sleep(0.5)
        store.fill(feature, 4)
        values = store.read(list(range(40)), 0)
        distributed.stop()
        if not torch.equal(values, feature(list(range(40)), 0).half()):
            raise ValueError("other features")

    assert on_ranks(2, work) == [0, 0]
    assert len(list(tmp_path.rglob("*.npy"))) == 10


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    TargetStore(tmp_path, 4, 1, SHAPE).fill(feature, 4)
    path = next(tmp_path.rglob("*.npy"))
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    store = TargetStore(tmp_path, 4, 1, SHAPE)
    store.read([0, 1, 2], 0)
    with pytest.raises(DataError, match=r"(?s)E-TARGET-02.*slice 3.*rm -r"):
        store.read([3], 0)
    shutil.rmtree(tmp_path)
    TargetStore(tmp_path, 4, 1, SHAPE).fill(feature, 4)


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    store = TargetStore(tmp_path, 2, 1, SHAPE)
    with pytest.raises(DataError, match="E-TARGET-01"):
        store.fill(lambda indices, view: 1e6 * torch.ones(len(indices), *SHAPE), 2)
    assert not list(tmp_path.rglob("*.npy"))
