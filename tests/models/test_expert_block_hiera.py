"""Expert blocks on Hiera, where a block may pool its queries and double its width."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from sam2.modeling.backbones.hieradet import MultiScaleBlock
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level, ModelSpec, Scope
from samora_pipeline.models.assembly import build_network, expert_state, load_expert
from samora_pipeline.models.backbones.sam2 import SAM2_HIERA_B_PLUS, Sam2Backbone, Sam2BlockSteps
from samora_pipeline.models.catalog import BACKBONES, build_fusion
from samora_pipeline.models.expert_block import ExpertBlock, expert_blocks, only_expert
from samora_pipeline.models.lora import LoRA

STEPS = Sam2BlockSteps()


class Kind(NamedTuple):
    """Widths of a block, whether it pools, its window, and a grid to run it on."""

    dim: int
    dim_out: int
    pools: bool
    window: int
    size: tuple[int, int]

    def build(self) -> MultiScaleBlock:
        stride = (2, 2) if self.pools else None
        block = MultiScaleBlock(self.dim, self.dim_out, num_heads=2, q_stride=stride, window_size=self.window)
        return block.double()


KINDS = [
    Kind(24, 24, False, 4, (8, 8)),
    Kind(24, 24, False, 4, (6, 5)),
    Kind(24, 24, False, 0, (4, 5)),
    Kind(24, 48, True, 4, (8, 8)),
    Kind(24, 48, True, 4, (6, 10)),
    Kind(16, 32, True, 14, (6, 6)),
]


def merged(block: MultiScaleBlock, lora: nn.Module) -> MultiScaleBlock:
    """The reference block with W + B A in all of its query rows and all of its value rows."""
    assert isinstance(lora, LoRA)
    copied = copy.deepcopy(block)
    with torch.no_grad():
        copied.attn.qkv.weight[: block.dim_out] += lora.q_b @ lora.q_a
        copied.attn.qkv.weight[2 * block.dim_out :] += lora.v_b @ lora.v_a
    return copied


def attention_only(block: MultiScaleBlock, x: Tensor) -> tuple[Tensor, Tensor]:
    """What the reference block adds to its shortcut by attention, and the shortcut, read off around the norm."""
    seen: list[Tensor] = []
    handle = block.norm2.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    block(x)
    with torch.no_grad():
        proj = copy.deepcopy(block.attn.proj)
        block.attn.proj.weight.zero_()
        block.attn.proj.bias.zero_()
        block(x)
        block.attn.proj.load_state_dict(proj.state_dict())
    handle.remove()
    return seen[0] - seen[1], seen[1]


def wrapped(block: MultiScaleBlock, levels: tuple[Level, ...], spec: FusionSpec) -> ExpertBlock:
    fusion = None
    if len(levels) > 1:
        fusion = build_fusion(spec, num_experts=len(levels), dim=block.dim_out, window=STEPS.window(block)).double()
    return ExpertBlock(block, STEPS, levels, 3, fusion=fusion, scope=spec.scope).double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("residual", ["delta", "paper"])
def test_block_scope_runs_the_whole_block_with_each_expert(
    kind: Kind, residual: str, randomise: Callable[..., None]
) -> None:
    block = kind.build()
    expert_block = wrapped(block, LEVELS, FusionSpec(options={"residual": residual}))
    randomise(expert_block, 0.3)
    x = torch.randn(2, *kind.size, kind.dim, dtype=torch.float64)
    with torch.no_grad():
        base = block(x)
        experts = torch.stack([merged(block, expert_block.experts[level])(x) for level in LEVELS])
        got = expert_block(x)
        torch.testing.assert_close(got, base + expert_block.get_submodule("fusion")(base, experts), rtol=0, atol=1e-10)
    shrink = 2 if kind.pools else 1
    assert got.shape == (2, kind.size[0] // shrink, kind.size[1] // shrink, kind.dim_out)


@pytest.mark.parametrize("kind", KINDS)
def test_attention_scope_runs_the_mlp_once(kind: Kind, randomise: Callable[..., None]) -> None:
    block = kind.build()
    expert_block = wrapped(block, LEVELS, FusionSpec(scope="attention"))
    randomise(expert_block, 0.3)
    x = torch.randn(2, *kind.size, kind.dim, dtype=torch.float64)
    calls: list[int] = []
    handle = block.mlp.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    with torch.no_grad():
        got = expert_block(x)
        handle.remove()
        base, shortcut = attention_only(block, x)
        branches = [attention_only(merged(block, expert_block.experts[level]), x)[0] for level in LEVELS]
        middle = shortcut + base + expert_block.get_submodule("fusion")(base, torch.stack(branches))
        torch.testing.assert_close(got, middle + block.mlp(block.norm2(middle)), rtol=0, atol=1e-10)
    assert calls == [2]


@pytest.mark.parametrize("kind", KINDS)
def test_only_expert_shows_one_expert_or_the_base(kind: Kind, randomise: Callable[..., None]) -> None:
    block = kind.build()
    expert_block = wrapped(block, LEVELS, FusionSpec())
    network = nn.Sequential(expert_block)
    randomise(network, 0.3)
    x = torch.randn(2, *kind.size, kind.dim, dtype=torch.float64)
    with torch.no_grad():
        for level in LEVELS:
            with only_expert(network, level):
                expected = merged(block, expert_block.experts[level])(x)
                torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-12)
        with only_expert(network, None):
            assert torch.equal(network(x), block(x))


@pytest.fixture
def new_experts_change_nothing(
    randomise: Callable[..., None], reference_sam2_encoder: Callable[..., nn.Module]
) -> Callable[..., None]:
    """Check that a network with new experts encodes like sam2's own encoder with the same random weights."""

    def check(name: str, size: int, fusion: FusionSpec, levels: tuple[Level, ...] = LEVELS) -> None:
        reference = reference_sam2_encoder(BACKBONES.get(name))
        randomise(reference, 0.05)
        network = build_network(ModelSpec(name, size, 2, levels=levels, fusion=fusion, decoder="sam2", lora_rank=4))
        encoder: Any = network.image_encoder
        own = encoder.state_dict()
        wrapped_name = {f"blocks.{i}.": f"blocks.{i}.block." for i in range(encoder.depth)}
        with torch.no_grad():
            for name, tensor in reference.state_dict().items():
                path = name.removeprefix("trunk.")
                head = ".".join(path.split(".")[:2]) + "."
                own[path.replace(head, wrapped_name.get(head, head), 1)].copy_(tensor)
            encoder.no_mem_embed.zero_()
            images = torch.rand(1, 3, size, size)
            expected = reference((images - encoder.pixel_mean) / encoder.pixel_std)["backbone_fpn"]
            embedding, skips = encoder(images)
        for got, wanted in zip((*skips, embedding), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))

    return check


@pytest.mark.parametrize("scope", ["block", "attention"])
@pytest.mark.parametrize("residual", ["delta", "paper"])
@pytest.mark.parametrize("size", [96, 224])
def test_new_experts_leave_the_encoder_as_it_is(
    size: int, scope: Scope, residual: str, new_experts_change_nothing: Callable[..., None]
) -> None:
    new_experts_change_nothing("samora2_tiny", size, FusionSpec(scope=scope, options={"residual": residual}))


@pytest.mark.parametrize("order", ["1-2-1", "1-1-2"])
def test_new_experts_leave_the_encoder_as_it_is_at_512_px(
    order: str, new_experts_change_nothing: Callable[..., None]
) -> None:
    new_experts_change_nothing("samora2_tiny", 512, FusionSpec(options={"order": order}))


@pytest.mark.parametrize("levels", [(), (Level.PATCH,), (Level.IMAGE, Level.PATCH)])
def test_new_experts_leave_the_encoder_as_it_is_for_fewer_levels(
    levels: tuple[Level, ...], new_experts_change_nothing: Callable[..., None]
) -> None:
    new_experts_change_nothing("samora2_tiny", 64, FusionSpec(), levels)


def test_new_experts_leave_blocks_of_hiera_b_plus_as_they_are(
    monkeypatch: pytest.MonkeyPatch, new_experts_change_nothing: Callable[..., None]
) -> None:
    """Every kind of block at its own width; the sixteen of the third stage as two."""
    short = Sam2Backbone(embed_dim=112, heads=2, stages=(1, 1, 2, 1), global_attn_indexes=(3,))
    monkeypatch.setitem(BACKBONES._entries, "short", short)
    new_experts_change_nothing("short", 224, FusionSpec())


def test_fusion_attends_on_the_output_of_its_block() -> None:
    """In its windows, as they lie on the output grid, and at its output width."""
    with torch.device("meta"):
        network = build_network(ModelSpec("sam2_hiera_b+", 512, 2, decoder="sam2", lora_rank=4))
    fusions: list[Any] = [block.fusion for block in expert_blocks(network.image_encoder).values()]
    assert [fusion.first.window for fusion in fusions[:6]] == [8, 8, 4, 4, 4, 2]
    assert [index for index, fusion in enumerate(fusions) if fusion.second.window == 0] == [12, 16, 20]
    assert [fusion.second.out.out_features for fusion in fusions] == [112] * 2 + [224] * 3 + [448] * 16 + [896] * 3


def test_gradients_cross_every_stage_and_reach_every_expert() -> None:
    torch.manual_seed(0)
    network = build_network(ModelSpec("samora2_tiny", 64, 2, decoder="sam2", lora_rank=4))
    blocks = expert_blocks(network.image_encoder).values()
    with torch.no_grad():
        for block in blocks:
            assert block.fusion is not None
            for parameter in (*block.experts.parameters(), *block.fusion.parameters()):
                parameter.normal_(0, 0.1)
    network(torch.rand(2, 1, 64, 64)).square().sum().backward()
    for block in blocks:
        for parameter in block.experts.parameters():
            assert parameter.grad is not None
            assert parameter.grad.any()


def test_an_expert_of_hiera_moves_into_the_fused_network(randomise: Callable[..., None]) -> None:
    alone = build_network(ModelSpec("samora2_tiny", 64, 2, levels=(Level.PIXEL,), decoder="sam2", lora_rank=4))
    randomise(alone)
    state = expert_state(alone, Level.PIXEL)
    assert state["blocks.1.q_a"].shape == (4, 24)
    assert state["blocks.1.q_b"].shape == (48, 4)
    fused = build_network(ModelSpec("samora2_tiny", 64, 2, decoder="sam2", lora_rank=4))
    load_expert(fused, Level.PIXEL, state)
    assert all(torch.equal(value, state[name]) for name, value in expert_state(fused, Level.PIXEL).items())


def test_sizes_of_the_image_path_of_sam_2() -> None:
    """Trunk 68,675,712 and neck 431,104; prompts 6,220; four masks 4,215,109; no memory 256."""
    with torch.device("meta"):
        network = build_network(ModelSpec("sam2_hiera_b+", 1024, 4, levels=(), decoder="sam2", lora_rank=4))
    assert SAM2_HIERA_B_PLUS.depth == 24
    assert sum(p.numel() for p in network.parameters()) == 68_675_712 + 431_104 + 6_220 + 4_215_109 + 256
