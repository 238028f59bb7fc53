from __future__ import annotations

from pathlib import Path

import pytest
import torch

from samora_pipeline.inference import device as device_module
from samora_pipeline.inference.device import cpu_bf16_instructions, pick_arithmetic, pick_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("flags\t\t: fpu sse avx2 avx512f avx512_bf16", "avx512_bf16"),
        ("flags\t\t: fpu avx512_bf16 amx_bf16 amx_tile", "amx_bf16"),
        ("Features\t: fp asimd bf16 i8mm", "bf16"),
        ("flags\t\t: fpu sse avx2 fma avx512f", ""),
        ("model name\t: avx512_bf16", ""),
    ],
)
def test_a_cpu_says_itself_whether_it_multiplies_in_bf16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, found: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\nprocessor\t: 1\n{line}\n")
    monkeypatch.setattr(device_module, "_CPUINFO", cpuinfo)
    assert cpu_bf16_instructions() == found
    arithmetic = pick_arithmetic(CPU)
    assert arithmetic.name == ("bf16" if found else "fp32")
    assert (found or "neither") in arithmetic.why
    assert pick_arithmetic(CPU, "fp32").dtype == torch.float32
    assert pick_arithmetic(CPU, "bf16").dtype == torch.bfloat16


def test_without_cpuinfo_torch_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for supported, found in ((True, "avx512_bf16"), (False, "")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        assert cpu_bf16_instructions() == found


def test_a_step_holds_about_the_same_number_of_pixels() -> None:
    assert [pick_batch(CPU, size) for size in (128, 224, 512, 1024)] == [6, 2, 1, 1]


@pytest.mark.parametrize(("free_gib", "size", "slices"), [(78, 224, 64), (8, 224, 32), (8, 512, 6), (0.2, 224, 1)])
def test_on_cuda_the_free_memory_decides(
    monkeypatch: pytest.MonkeyPatch, free_gib: float, size: int, slices: int
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gib * 2**30), 80 * 2**30))
    assert pick_batch(torch.device("cuda"), size) == slices


@pytest.mark.parametrize(("supported", "name"), [(True, "bf16"), (False, "fp32")])
def test_old_cuda_devices_stay_in_single_precision(monkeypatch: pytest.MonkeyPatch, supported: bool, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Device")
    assert pick_arithmetic(torch.device("cuda")).name == name
