from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from samora_pipeline.errors import ResourceError, UsageError
from samora_pipeline.inference import device as device_module
from samora_pipeline.inference.device import pick_batch, pick_device

CPU = torch.device("cpu")


def test_a_step_holds_about_the_same_number_of_pixels() -> None:
    assert [pick_batch(CPU, size) for size in (128, 224, 512, 1024)] == [6, 2, 1, 1]


@pytest.mark.parametrize(("free_gib", "size", "slices"), [(78, 224, 64), (8, 224, 32), (8, 512, 6), (0.2, 224, 1)])
def test_on_cuda_the_free_memory_decides(
    monkeypatch: pytest.MonkeyPatch, free_gib: float, size: int, slices: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gib * 2**30), 80 * 2**30))
    assert pick_batch(torch.device("cuda"), size) == slices


@contextlib.contextmanager
def without_cuda(
    monkeypatch: pytest.MonkeyPatch, *, driver: bool, built: str | None = "13.0", container: bool = False
) -> Iterator[pytest.ExceptionInfo[ResourceError]]:
    signs = (Path(__file__),) if driver else (Path(__file__) / "none",)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(device_module, "_DRIVERS", signs)
    monkeypatch.setattr(device_module, "_in_container", lambda: container)
    with pytest.raises(ResourceError) as caught:
        yield caught


@pytest.mark.parametrize("built", ["13.0", None])
def test_without_a_driver_torch_is_not_to_blame(monkeypatch: pytest.MonkeyPatch, built: str | None) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with without_cuda(monkeypatch, driver=False, built=built) as caught:
        pick_device("cuda")
    assert caught.value.code == "E-DEV-03"
    assert "no NVIDIA driver" in caught.value.found
    assert "torch" not in caught.value.fix
    with without_cuda(monkeypatch, driver=False, built=built, container=True) as caught:
        pick_device("cuda:1")
    assert "docker run --gpus all" in caught.value.fix


def test_with_a_driver_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with without_cuda(monkeypatch, driver=True, built=None) as caught:
        pick_device("cuda")
    assert "built without CUDA" in caught.value.found
    assert "install the CUDA builds" in caught.value.fix
    with without_cuda(monkeypatch, driver=True) as caught:
        pick_device("cuda")
    assert "torch (CUDA 13.0) finds no device" in caught.value.found
    assert "nvidia-smi" in caught.value.fix
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with without_cuda(monkeypatch, driver=True) as caught:
        pick_device("cuda")
    assert "CUDA_VISIBLE_DEVICES=''" in caught.value.found


def test_a_number_that_no_device_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ResourceError) as caught:
        pick_device("cuda:2")
    assert (caught.value.code, caught.value.found) == ("E-DEV-02", "2 CUDA devices")


@pytest.mark.parametrize("name", ["mps", "mps:0", "xpu:0", "hip", "meta", torch.device("mps")])
def test_devices_of_other_kinds_are_refused_in_one_sentence(name: str | torch.device) -> None:
    with pytest.raises(UsageError) as caught:
        pick_device(name)
    assert (caught.value.code, caught.value.fix) == ("E-DEV-04", "--device cpu")
    assert "mps is not supported" in caught.value.expected
    assert "ROCm is called cuda" in caught.value.expected


def test_nothing_but_cuda_is_taken_where_no_device_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not mps, where there is one; and a GPU under ROCm, which torch built for it shows as CUDA."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(None) == CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.version, "hip", "7.0")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert pick_device(None) == torch.device("cuda")
    assert pick_device("cuda:0") == torch.device("cuda", 0)
