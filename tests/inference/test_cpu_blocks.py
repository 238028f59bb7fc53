"""Blocks and products for a CPU against the plain ones."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from segment_anything.modeling.image_encoder import Block
from torch import nn

from samora_pipeline.contracts.level import LEVELS, Level
from samora_pipeline.contracts.model_spec import FusionSpec, ModelSpec, Scope
from samora_pipeline.inference import products
from samora_pipeline.inference.allocation import BLAS_THREADS
from samora_pipeline.inference.cpu_blocks import CpuSamBlockSteps, use_cpu_blocks
from samora_pipeline.inference.products import OpenBlasLinear, openblas_is_faster, use_openblas
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.backbones.sam_block import SamBlockSteps
from samora_pipeline.models.expert_block import ExpertBlock, expert_blocks


def randomise(module: nn.Module) -> None:
    """No zeros anywhere: neither positions nor LoRA may be without effect."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)


@pytest.mark.parametrize(("window", "size"), [(0, (4, 5)), (4, (4, 4)), (4, (6, 5)), (7, (4, 5))])
@pytest.mark.parametrize("positions", [True, False])
def test_a_block_gives_what_the_reference_block_gives(window: int, size: tuple[int, int], positions: bool) -> None:
    block = Block(24, num_heads=3, use_rel_pos=positions, window_size=window, input_size=size).double()
    randomise(block)
    own = ExpertBlock(block, CpuSamBlockSteps(), (Level.IMAGE,), 2).double()
    x = torch.rand(2, *size, 24, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(own(x), block(x), rtol=1e-12, atol=1e-12)


def test_another_activation_than_gelu_is_run_as_it_is() -> None:
    block = Block(24, num_heads=3, window_size=0, act_layer=nn.ReLU)
    x = torch.randn(2, 4, 4, 24)
    with torch.inference_mode():
        torch.testing.assert_close(CpuSamBlockSteps().leave(block, x), SamBlockSteps().leave(block, x), rtol=0, atol=0)


@pytest.mark.parametrize("scope", ["block", "attention"])
@pytest.mark.parametrize("levels", [LEVELS, (Level.PIXEL,)])
def test_a_network_gives_the_same_logits(scope: Scope, levels: tuple[Level, ...]) -> None:
    plain = build_network(ModelSpec("samora_tiny", 64, 3, levels=levels, fusion=FusionSpec(scope=scope))).eval()
    randomise(plain)
    fast = copy.deepcopy(plain)
    use_cpu_blocks(fast)
    use_openblas(fast)
    assert {type(block.steps) for block in expert_blocks(fast).values()} == {CpuSamBlockSteps}
    assert any(isinstance(module, OpenBlasLinear) for module in fast.modules())
    with torch.inference_mode():
        images = torch.rand(2, 1, 64, 64)
        expected, got = plain(images), fast(images)
    assert not torch.equal(got, expected)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_blocks_of_other_families_stay_as_they_are() -> None:
    network = build_network(ModelSpec("samora2_tiny", 64, 3, decoder="sam2"))
    before = [type(block.steps) for block in expert_blocks(network).values()]
    use_cpu_blocks(network)
    assert [type(block.steps) for block in expert_blocks(network).values()] == before


@pytest.mark.parametrize("bias", [True, False])
def test_a_product_of_openblas_is_that_of_torch(bias: bool) -> None:
    layer = nn.Linear(48, 30, bias=bias)
    x = torch.randn(2, 5, 7, 48).transpose(1, 2)
    with torch.inference_mode():
        torch.testing.assert_close(OpenBlasLinear(layer)(x), layer(x), rtol=1e-5, atol=1e-6)


def test_with_several_threads_torch_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("numpy was asked")

    layer = nn.Linear(8, 4)
    own = OpenBlasLinear(layer)
    monkeypatch.setattr(products.np, "matmul", refuse)
    monkeypatch.setattr(products.torch, "get_num_threads", lambda: 2)
    x = torch.randn(3, 8)
    with torch.inference_mode():
        torch.testing.assert_close(own(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("vendor", "threads", "blas", "expected"),
    [
        ("AuthenticAMD", "1", "scipy-openblas", True),
        ("GenuineIntel", "1", "scipy-openblas", False),
        ("AuthenticAMD", "2", "scipy-openblas", False),
        ("AuthenticAMD", "", "scipy-openblas", False),
        ("AuthenticAMD", "1", "accelerate", False),
    ],
)
def test_openblas_is_chosen_on_amd_with_one_thread_only(
    vendor: str,
    threads: str,
    blas: str,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    monkeypatch.setattr(products, "_CPUINFO", cpuinfo)
    monkeypatch.setenv(BLAS_THREADS, threads)
    monkeypatch.setattr(products.np, "show_config", lambda mode: {"Build Dependencies": {"blas": {"name": blas}}})
    assert openblas_is_faster() is expected
