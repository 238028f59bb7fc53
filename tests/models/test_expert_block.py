"""Expert blocks against the reference block run once per branch with merged weights."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level
from samora_pipeline.models.backbones.sam import SamBlockSteps
from samora_pipeline.models.catalog import build_fusion
from samora_pipeline.models.expert_block import ExpertBlock, expert_blocks, only_expert
from samora_pipeline.models.fusions.stepwise import HLAttention
from samora_pipeline.models.lora import LoRA

DIM = 24
STEPS = SamBlockSteps()
# window side and token grid: global, one exact window, padded on both sides, larger than the grid
WINDOWS = [(0, (4, 5)), (4, (4, 4)), (4, (6, 5)), (7, (4, 5))]


def reference(window: int, size: tuple[int, int]) -> Block:
    return Block(DIM, num_heads=3, use_rel_pos=True, window_size=window, input_size=size).double()


def merged(block: Block, lora: nn.Module) -> Block:
    """The reference block with W + B A in its query and value rows."""
    assert isinstance(lora, LoRA)
    copied = copy.deepcopy(block)
    with torch.no_grad():
        copied.attn.qkv.weight[:DIM] += lora.q_b @ lora.q_a
        copied.attn.qkv.weight[2 * DIM :] += lora.v_b @ lora.v_a
    return copied


def attention_only(block: Block, x: Tensor) -> Tensor:
    """What the reference block's attention adds to its input, read off at the second norm."""
    seen: list[Tensor] = []
    handle = block.norm2.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    block(x)
    handle.remove()
    return seen[0] - x


def wrapped(block: Block, window: int, levels: tuple[Level, ...], spec: FusionSpec) -> ExpertBlock:
    fusion = None
    if len(levels) > 1:
        fusion = build_fusion(spec, num_experts=len(levels), dim=DIM, window=window).double()
    return ExpertBlock(block, STEPS, levels, 3, fusion=fusion, scope=spec.scope).double()


@pytest.mark.parametrize(("window", "size"), WINDOWS)
@pytest.mark.parametrize("residual", ["delta", "paper"])
@pytest.mark.parametrize("levels", [LEVELS, (Level.IMAGE, Level.PIXEL)])
def test_block_scope_runs_the_whole_block_with_each_expert(
    window: int, size: tuple[int, int], residual: str, levels: tuple[Level, ...], randomise: Callable[..., None]
) -> None:
    block = reference(window, size)
    expert_block = wrapped(block, window, levels, FusionSpec(options={"residual": residual}))
    randomise(expert_block, 0.3)
    x = torch.randn(2, *size, DIM, dtype=torch.float64)
    with torch.no_grad():
        base = block(x)
        experts = torch.stack([merged(block, expert_block.experts[level])(x) for level in levels])
        expected = base + expert_block.get_submodule("fusion")(base, experts)
        torch.testing.assert_close(expert_block(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("window", "size"), WINDOWS)
@pytest.mark.parametrize("residual", ["delta", "paper"])
def test_attention_scope_runs_the_mlp_once(
    window: int, size: tuple[int, int], residual: str, randomise: Callable[..., None]
) -> None:
    block = reference(window, size)
    expert_block = wrapped(block, window, LEVELS, FusionSpec(scope="attention", options={"residual": residual}))
    randomise(expert_block, 0.3)
    x = torch.randn(2, *size, DIM, dtype=torch.float64)
    calls: list[int] = []
    block.mlp.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    with torch.no_grad():
        got = expert_block(x)
        assert calls == [2]
        base = attention_only(block, x)
        branches = [attention_only(merged(block, expert_block.experts[level]), x) for level in LEVELS]
        middle = x + base + expert_block.get_submodule("fusion")(base, torch.stack(branches))
        torch.testing.assert_close(got, middle + block.mlp(block.norm2(middle)), rtol=0, atol=1e-10)


@pytest.mark.parametrize(("window", "size"), WINDOWS)
def test_one_expert_runs_one_branch(window: int, size: tuple[int, int], randomise: Callable[..., None]) -> None:
    block = reference(window, size)
    expert_block = wrapped(block, window, (Level.PATCH,), FusionSpec())
    randomise(expert_block, 0.3)
    x = torch.randn(2, *size, DIM, dtype=torch.float64)
    with torch.no_grad():
        expected = merged(block, expert_block.experts["patch"])(x)
        rows: list[int] = []
        block.mlp.register_forward_hook(lambda module, args, output: rows.append(len(output)))
        torch.testing.assert_close(expert_block(x), expected, rtol=0, atol=1e-12)
    assert rows == [2]


def test_without_experts_it_is_the_plain_block() -> None:
    block = reference(4, (6, 5))
    x = torch.randn(1, 6, 5, DIM, dtype=torch.float64)
    assert torch.equal(wrapped(block, 4, (), FusionSpec())(x), block(x))


def test_one_qkv_product_serves_all_branches() -> None:
    block = reference(0, (4, 4))
    rows: list[int] = []
    block.attn.qkv.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    wrapped(block, 0, LEVELS, FusionSpec())(torch.randn(2, 4, 4, DIM, dtype=torch.float64))
    assert rows == [2]


def test_levels_are_kept_from_high_to_low() -> None:
    levels = (Level.PIXEL, Level.IMAGE, Level.PATCH)
    assert wrapped(reference(0, (4, 4)), 0, levels, FusionSpec()).levels == LEVELS


def test_only_expert_shows_one_expert_or_the_base_and_puts_everything_back(randomise: Callable[..., None]) -> None:
    block = reference(0, (4, 4))
    expert_block = wrapped(block, 0, LEVELS, FusionSpec())
    network = nn.Sequential(expert_block)
    randomise(network, 0.3)
    x = torch.randn(2, 4, 4, DIM, dtype=torch.float64)
    with torch.no_grad():
        fused = network(x)
        with only_expert(network, Level.PIXEL):
            alone = network(x)
            with only_expert(network, None):
                assert torch.equal(network(x), block(x))
        torch.testing.assert_close(alone, merged(block, expert_block.experts["pixel"])(x), rtol=0, atol=1e-12)
        assert torch.equal(network(x), fused)


def test_only_expert_refuses_a_level_that_is_not_there() -> None:
    network = nn.Sequential(wrapped(reference(0, (4, 4)), 0, (Level.IMAGE,), FusionSpec()))
    with pytest.raises(KeyError), only_expert(network, Level.PIXEL):
        pass


def test_expert_blocks_are_found_by_path() -> None:
    network = nn.Sequential(nn.Identity(), wrapped(reference(0, (4, 4)), 0, (), FusionSpec()))
    assert list(expert_blocks(network)) == ["1"]


@pytest.mark.parametrize(("levels", "fused"), [(LEVELS, False), ((Level.IMAGE,), True), ((), True)])
def test_levels_and_fusion_must_agree(levels: tuple[Level, ...], fused: bool) -> None:
    fusion = HLAttention(HLAttention.Options(), num_experts=3, dim=DIM, window=0) if fused else None
    with pytest.raises(ValueError, match="do not go together"):
        ExpertBlock(reference(0, (4, 4)), STEPS, levels, 3, fusion=fusion)
