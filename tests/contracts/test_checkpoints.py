from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.errors import DataError, ResourceError

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


@pytest.mark.parametrize(
    "header",
    ["x", "[]", "{}", "null", "5", "[" * 100_000, '{"digest": "0"}', '{"digest": "0", "record": []}', '{"record": {}}'],
)
def test_a_header_of_another_form_is_a_damaged_checkpoint(tmp_path: Path, header: str) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(save({"a": torch.zeros(3)}, {"samora": header}))
    with pytest.raises(DataError, match="E-CKPT-02"):
        load_checkpoint(path)


def test_a_record_that_was_changed_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"a": torch.zeros(3)}, {"epoch": 3, "state": {"sums": (1.5, 2.0)}})
    assert load_checkpoint(path).record == {"epoch": 3, "state": {"sums": [1.5, 2.0]}}
    path.write_bytes(path.read_bytes().replace(b'\\"epoch\\": 3', b'\\"epoch\\": 4'))
    with pytest.raises(DataError, match="E-CKPT-02"):
        load_checkpoint(path)


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"a": torch.zeros(3)}, {"epoch": 3})
    with safe_open(path, framework="pt") as stream:
        header = json.loads(stream.metadata()["samora"])
    del header["record_digest"]
    path.write_bytes(save({"a": torch.zeros(3)}, {"samora": json.dumps(header)}))
    assert load_checkpoint(path).record == {"epoch": 3}


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, {"a": torch.zeros(3)}, {})
    before = path.read_bytes()

    def full(_path: Path, _content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ResourceError, match="E-DISK-01"):
        save_checkpoint(path, {"a": torch.ones(3)}, {})
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before
