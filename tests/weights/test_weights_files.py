from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.weights.files import read_shapes, read_weights

STATE = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.int64)}


def write(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("content", [STATE, {"model": STATE}, {"state_dict": STATE, "epoch": 3}])
def test_torch_files_are_read_bare_or_wrapped(content: object, tmp_path: Path) -> None:
    got = read_weights(write(tmp_path / "w.pth", content))
    assert got.keys() == STATE.keys()
    assert all(torch.equal(got[name], STATE[name]) for name in STATE)


def test_the_arguments_of_a_training_may_lie_beside_the_tensors(tmp_path: Path) -> None:
    got = read_weights(write(tmp_path / "w.pth", {"model": STATE, "args": Namespace(lr=1e-3, blr=None), "epoch": 799}))
    assert got.keys() == STATE.keys()


def test_dicts_side_by_side_lend_their_names(tmp_path: Path) -> None:
    got = read_weights(write(tmp_path / "w.pth", {"resnet": STATE, "head": {"layers.0.weight": torch.ones(1)}}))
    assert list(got) == ["resnet.a", "resnet.b", "head.layers.0.weight"]
    assert torch.equal(got["resnet.a"], STATE["a"])


@pytest.mark.parametrize("legacy", [False, True])
def test_shapes_are_read_without_values(legacy: bool, tmp_path: Path) -> None:
    torch.save({"model": STATE}, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    save_file(STATE, tmp_path / "w.safetensors")
    assert read_shapes(tmp_path / "w.pth") == {"a": (2, 3), "b": (2,)}
    assert read_shapes(tmp_path / "w.safetensors") == {"a": (2, 3), "b": (2,)}


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "w.safetensors")
    got = read_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(got[name], STATE[name]) for name in STATE)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match="E-WEIGHT-05"):
        read_weights(tmp_path / "w.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 0.5, 0.99])
def test_a_truncated_file(suffix: str, keep: float, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    big = {"a": torch.rand(64, 64)}
    if suffix == ".pth":
        torch.save(big, path)
    else:
        save_file(big, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(DataError, match="E-WEIGHT-07"):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_web_page_in_place_of_the_download(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    path.write_text("<!DOCTYPE html><html>quota exceeded</html>")
    with pytest.raises(DataError, match=r"E-WEIGHT-07[\s\S]*web page"):
        read_weights(path)


class Payload:
    def __init__(self, sentinel: str) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.sentinel,)


def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    sentinel = tmp_path / "executed"
    path = write(tmp_path / "w.pth", {"a": Payload(str(sentinel))})
    with pytest.raises(DataError, match=r"E-WEIGHT-07[\s\S]*asks for more than tensors"):
        read_weights(path)
    assert not sentinel.exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 3}])
def test_a_file_without_named_tensors(content: object, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="E-WEIGHT-07"):
        read_weights(write(tmp_path / "w.pth", content))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"E-WEIGHT-08[\s\S]*in a"):
        read_weights(write(tmp_path / "w.pth", {"b": torch.ones(2), "a": torch.tensor([0.0, value])}))
