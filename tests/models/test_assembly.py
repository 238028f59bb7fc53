from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level, ModelSpec, Scope
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.models.assembly import (
    build_network,
    expert_state,
    load_expert,
    load_trained,
    public_names,
    trained_state,
)
from samora_pipeline.models.backbones.sam import SAM_VIT_B, SamBackbone
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.samora import SegmentationNetwork

TINY = ModelSpec("samora_tiny", 64, num_outputs=3, lora_rank=4)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(spec: ModelSpec) -> SegmentationNetwork:
    with torch.device("meta"):
        return build_network(spec)


@pytest.fixture
def new_experts_change_nothing(
    randomise: Callable[..., None], reference_encoder: Callable[..., nn.Module], narrow: SamBackbone
) -> Callable[..., None]:
    """Check that a network with new experts encodes bit for bit like the reference with the same random weights."""

    def check(name: str, size: int, fusion: FusionSpec, levels: tuple[Level, ...] = LEVELS) -> None:
        reference = reference_encoder(BACKBONES.get(name), size)
        randomise(reference, 0.05)
        network = build_network(ModelSpec(name, size, num_outputs=2, levels=levels, fusion=fusion, lora_rank=4))
        own = network.state_dict()
        state = {f"image_encoder.{key}": value for key, value in reference.state_dict().items()}
        names = {public: key for public, key in public_names(network).items() if public.startswith("image_encoder.")}
        assert state.keys() == names.keys()
        with torch.no_grad():
            for public, key in names.items():
                own[key].copy_(state[public])
            images = torch.rand(1, 3, size, size)
            assert torch.equal(network.image_encoder(images).embedding, reference(images))

    return check


@pytest.mark.parametrize("size", [224, 320])
@pytest.mark.parametrize("scope", ["block", "attention"])
@pytest.mark.parametrize("residual", ["delta", "paper"])
def test_new_experts_leave_the_encoder_bit_equal(
    size: int, scope: Scope, residual: str, new_experts_change_nothing: Callable[..., None]
) -> None:
    new_experts_change_nothing("narrow", size, FusionSpec(scope=scope, options={"residual": residual}))


@pytest.mark.parametrize("order", ["2-1-1", "1-2-1", "1-1-2"])
def test_new_experts_leave_the_encoder_bit_equal_at_512_px_in_every_order(
    order: str, new_experts_change_nothing: Callable[..., None]
) -> None:
    new_experts_change_nothing("narrow", 512, FusionSpec(options={"order": order}))


@pytest.mark.parametrize("levels", [(), (Level.PATCH,), (Level.IMAGE, Level.PATCH)])
def test_new_experts_leave_the_encoder_bit_equal_for_fewer_levels(
    levels: tuple[Level, ...], new_experts_change_nothing: Callable[..., None]
) -> None:
    new_experts_change_nothing("narrow", 224, FusionSpec(), levels)


def test_new_experts_leave_blocks_of_vit_b_bit_equal(
    monkeypatch: pytest.MonkeyPatch, new_experts_change_nothing: Callable[..., None]
) -> None:
    shallow = dataclasses.replace(SAM_VIT_B, depth=3, global_attn_indexes=(2,))
    monkeypatch.setitem(BACKBONES._entries, "shallow", shallow)
    new_experts_change_nothing("shallow", 224, FusionSpec())


def test_sizes_of_sam() -> None:
    assert count(on_meta(ModelSpec("sam_vit_b", 1024, num_outputs=4, levels=(), lora_rank=4))) == 93_735_472


@pytest.mark.parametrize(("size", "total"), [(224, 91_538_133), (512, 92_192_469), (1024, 94_584_533)])
def test_sizes_of_samed(size: int, total: int) -> None:
    assert (
        count(on_meta(ModelSpec("sam_vit_b", size, num_outputs=9, levels=(Level.IMAGE,), fusion=None, lora_rank=4)))
        == total
    )


@pytest.mark.parametrize("size", [224, 512, 1024])
@pytest.mark.parametrize("name", ["sam_vit_b", "sam_vit_l", "sam_vit_h", "sam2_hiera_b+"])
def test_every_backbone_is_a_network_with_fused_experts_at_every_size(name: str, size: int) -> None:
    network = on_meta(ModelSpec(name, size, num_outputs=9, decoder=BACKBONES.get(name).own_decoder, lora_rank=4))
    with torch.device("meta"):
        assert network(torch.empty(1, 1, size, size)).shape == (1, 9, size // 4, size // 4)
    blocks = expert_blocks(network.image_encoder).values()
    assert len(blocks) == BACKBONES.get(name).depth
    for block, shape in zip(blocks, network.image_encoder.shapes, strict=True):
        assert {expert.q_b.shape for expert in block.experts.values()} == {(shape.width, 4)}


def test_fusion_adds_what_table_3_says() -> None:
    """+9.7 M: HL-Attn on every block and two experts more than SAMed has."""
    samed = on_meta(ModelSpec("sam_vit_b", 224, num_outputs=9, levels=(Level.IMAGE,), lora_rank=4))
    samora = on_meta(ModelSpec("sam_vit_b", 224, num_outputs=9, lora_rank=4))
    assert count(samora) - count(samed) == 9_464_832 + 2 * 147_456


def test_fusion_attends_in_the_windows_of_its_block(narrow: SamBackbone) -> None:
    network = build_network(ModelSpec("narrow", 512, num_outputs=2, lora_rank=4))
    fusions: list[Any] = [block.fusion for block in expert_blocks(network.image_encoder).values()]
    assert [(fusion.first.window, fusion.second.window) for fusion in fusions] == [(14, 14), (14, 14), (0, 0)]


def test_several_levels_need_a_fusion() -> None:
    with pytest.raises(UsageError, match="E-MODEL-02"):
        build_network(ModelSpec("samora_tiny", 64, num_outputs=2, fusion=None, lora_rank=4))


@pytest.mark.parametrize("field", ["backbone", "decoder"])
def test_unknown_parts_are_named(field: str) -> None:
    values: dict[str, Any] = {"backbone": "samora_tiny", "decoder": "samed"} | {field: "samora_tin"}
    with pytest.raises(UsageError, match="E-NAME-01"):
        build_network(ModelSpec(input_size=64, num_outputs=2, lora_rank=4, **values))


def test_an_expert_moves_from_its_own_network_into_the_fused_one(randomise: Callable[..., None]) -> None:
    alone = build_network(ModelSpec("samora_tiny", 64, num_outputs=3, levels=(Level.PATCH,), lora_rank=4))
    randomise(alone)
    state = expert_state(alone, Level.PATCH)
    assert len(state) == 6 * 4
    assert state["blocks.5.v_b"].shape == (96, 4)
    fused = build_network(TINY)
    before = {level: expert_state(fused, level) for level in LEVELS}
    load_expert(fused, Level.PATCH, state)
    after = {level: expert_state(fused, level) for level in LEVELS}
    assert all(torch.equal(after[Level.PATCH][name], state[name]) for name in state)
    for level in (Level.IMAGE, Level.PIXEL):
        assert all(torch.equal(after[level][name], before[level][name]) for name in state)


@pytest.mark.parametrize(
    ("other", "described"),
    [
        (ModelSpec("samora_tiny", 64, 3, levels=(Level.PIXEL,), lora_rank=2), "rank 2, width 96, depth 6"),
        (ModelSpec("narrow", 64, 3, levels=(Level.PIXEL,), lora_rank=4), "rank 4, width 48, depth 3"),
    ],
)
def test_an_expert_that_does_not_fit_is_refused(other: ModelSpec, described: str, narrow: SamBackbone) -> None:
    network = build_network(TINY)
    with pytest.raises(DataError, match="E-EXP-20") as caught:
        load_expert(network, Level.PIXEL, expert_state(build_network(other), Level.PIXEL))
    assert caught.value.found == described
    assert caught.value.expected == "rank 4, width 96, depth 6"


def test_something_else_is_refused_as_an_expert() -> None:
    with pytest.raises(DataError, match="no expert"):
        load_expert(build_network(TINY), Level.PIXEL, {"weight": torch.zeros(3)})


def test_trained_state_and_base_make_the_same_network_again(randomise: Callable[..., None]) -> None:
    spec = ModelSpec("samora_tiny", 64, num_outputs=3, in_channels=2, lora_rank=4)
    first, second = build_network(spec), build_network(spec)
    randomise(first)
    state = trained_state(first)
    second.image_encoder.load_state_dict(first.image_encoder.state_dict())
    load_trained(second, state)
    images = torch.rand(1, 2, 64, 64)
    with torch.no_grad():
        assert torch.equal(second(images), first(images))


def test_trained_state_is_everything_but_the_base() -> None:
    network = build_network(ModelSpec("samora_tiny", 64, num_outputs=3, in_channels=2, lora_rank=4))
    state = trained_state(network)
    base = set(network.state_dict()) - set(state)
    assert all(name.startswith("image_encoder.") for name in base)
    assert sum(network.state_dict()[name].numel() for name in base) == count(
        BACKBONES.get("samora_tiny").build_encoder(64)
    )
    assert "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in state


def test_a_trained_state_that_does_not_fit_is_refused_before_anything_is_written() -> None:
    network = build_network(TINY)
    before = trained_state(network)
    other = trained_state(build_network(ModelSpec("samora_tiny", 64, num_outputs=4, lora_rank=4)))
    with pytest.raises(DataError, match="E-MODEL-03"):
        load_trained(network, other)
    with pytest.raises(DataError, match="missing"):
        load_trained(network, dict(list(before.items())[1:]))
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained_state(network).items())
