"""Which precision is taken, on what grounds, and that choosing it changes nothing."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, ModelSpec
from samora_pipeline.inference import precision
from samora_pipeline.inference.precision import cpu_bf16_instructions, layers_of, native_bf16, pick_arithmetic
from samora_pipeline.models.assembly import build_network

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
SHAPE = (2, 1, 32, 32)


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
    monkeypatch.setattr(precision, "_CPUINFO", cpuinfo)
    assert cpu_bf16_instructions() == found
    monkeypatch.setattr(precision, "cpu_bf16_instructions", cpu_bf16_instructions)
    assert native_bf16(CPU) == found
    arithmetic = pick_arithmetic(CPU)
    assert arithmetic.name == "fp32"
    assert (found or "neither") in arithmetic.why
    assert pick_arithmetic(CPU, "fp32").dtype == torch.float32
    assert pick_arithmetic(CPU, "bf16").dtype == torch.bfloat16


def test_without_cpuinfo_torch_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "none")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for supported, found in ((True, "avx512_bf16"), (False, "")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        assert cpu_bf16_instructions() == found


@pytest.mark.parametrize(("supported", "name"), [(True, "bf16"), (False, "fp32")])
@pytest.mark.parametrize("training", [True, False])
def test_old_cuda_devices_stay_in_single_precision(
    monkeypatch: pytest.MonkeyPatch, supported: bool, name: str, training: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported or including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some Device")
    assert pick_arithmetic(CUDA, training=training).name == name


class Small(nn.Module):
    """A convolution and a product, and a dropout that would draw."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.product = nn.Linear(4, 8)
        self.register_buffer("order", torch.arange(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.product(self.convolution(x)[:, self.order].movedim(1, -1)).movedim(-1, 1)


def native(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float] | None = None) -> list[Any]:
    """A CPU with instructions for bf16 on which everything takes ``seconds`` (None: as long as it takes)."""
    asked: list[Any] = []

    def timed(piece: Any, *, training: bool) -> dict[str, float]:
        asked.append((piece, training))
        return dict(seconds or {})

    monkeypatch.setattr(precision, "cpu_bf16_instructions", lambda: "avx512_bf16")
    if seconds is not None:
        monkeypatch.setattr(precision, "_timed", timed)
    return asked


@pytest.mark.parametrize(("bf16", "name"), [(0.9, "bf16"), (1.1, "fp32")])
def test_a_small_network_is_timed_itself(monkeypatch: pytest.MonkeyPatch, bf16: float, name: str) -> None:
    asked = native(monkeypatch, {"fp32": 1.0, "bf16": bf16})
    found = pick_arithmetic(CPU, "auto", Small, SHAPE, training=True)
    assert found.name == name
    assert found.seconds == {"network_fp32": 1.0, "network_bf16": bf16}
    assert "avx512_bf16: network" in found.why
    ((piece, training),) = asked
    assert (type(piece.module), piece.images.shape, training) == (Small, SHAPE, True)


@pytest.mark.parametrize(("bf16", "name"), [(0.8, "bf16"), (0.95, "fp32"), (2.0, "fp32")])
def test_of_a_large_network_a_product_and_a_convolution_are_timed(
    monkeypatch: pytest.MonkeyPatch, bf16: float, name: str
) -> None:
    asked = native(monkeypatch, {"fp32": 1.0, "bf16": bf16})
    spec = ModelSpec("sam_vit_b", 224, 9, levels=LEVELS, fusion=FusionSpec(), lora_rank=4)
    with torch.device("meta"):
        found = pick_arithmetic(CPU, "auto", partial(build_network, spec), (2, 1, 224, 224))
    assert found.name == name
    assert set(found.seconds) == {"product_fp32", "product_bf16", "convolution_fp32", "convolution_bf16"}
    product, convolution = (piece for piece, _ in asked)
    assert (product.module.in_features, product.module.out_features) == (768, 3072)
    assert convolution.module.kernel_size == (16, 16)
    # Rows of 768 that make 2 GFLOP, and what one timing counts for: all products of a slice.
    assert product.images.shape[-1] == 768
    assert 1.9e9 < 2 * product.images.numel() * 3072 <= 2.0e9
    assert 40 < product.weight < 80


def test_a_network_that_cannot_be_traced_stays_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(Small):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float(x.sum())

    native(monkeypatch)
    found = pick_arithmetic(CPU, "auto", Odd, SHAPE)
    assert found.name == "fp32"
    assert "cannot be told" in found.why


@pytest.mark.parametrize("training", [True, False])
def test_timing_changes_neither_network_nor_random_numbers(monkeypatch: pytest.MonkeyPatch, training: bool) -> None:
    native(monkeypatch)
    network = Small()
    before, state = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
    found = pick_arithmetic(CPU, "auto", lambda: network, SHAPE, training=training)
    assert all(value > 0 for value in found.seconds.values())
    assert set(found.seconds) == {"network_fp32", "network_bf16"}
    assert torch.equal(state, torch.get_rng_state())
    for name, value in network.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in network.parameters())


def test_layers_are_found_with_their_shapes_and_operations() -> None:
    convolution, product = layers_of(Small(), SHAPE)
    assert (convolution.shape, convolution.flop) == (SHAPE, 2.0 * 2 * 4 * 32 * 32 * 9)
    assert (product.shape, product.flop) == ((2, 32, 32, 4), 2.0 * 2 * 32 * 32 * 4 * 8)


def test_what_was_only_traced_is_timed_with_weights_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    native(monkeypatch)
    monkeypatch.setattr(precision, "_PROBE_FLOP", 1e5)
    found = pick_arithmetic(CPU, "auto", Small, SHAPE)
    assert set(found.seconds) == {"product_fp32", "product_bf16", "convolution_fp32", "convolution_bf16"}
    assert all(value > 0 for value in found.seconds.values())
