from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch

from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.errors import DataError

TENSORS = {
    "weight": torch.arange(12, dtype=torch.float32).view(3, 4).t(),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "rng": torch.get_rng_state(),
    "scalar": torch.tensor(3.5),
}


def test_tensors_and_record_come_back_bit_equal(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, TENSORS, {"epoch": 3, "history": [1.5, None]})
    loaded = load_checkpoint(path)
    assert loaded.record == {"epoch": 3, "history": [1.5, None]}
    assert set(loaded.tensors) == set(TENSORS)
    assert all(torch.equal(loaded.tensors[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize("offset", [-1, -40])
def test_a_flipped_bit_is_noticed(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, TENSORS, {})
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="E-CKPT-02"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 5, 100])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, TENSORS, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="E-CKPT-02"):
        load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="E-CKPT-01"):
        load_checkpoint(tmp_path / "none.safetensors")


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_may_read(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        save_checkpoint(tmp_path / "checkpoint.safetensors", TENSORS, {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "checkpoint.safetensors").stat().st_mode) == mode
    assert len(list(tmp_path.iterdir())) == 1
