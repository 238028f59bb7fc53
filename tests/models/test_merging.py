"""LAC and LoRAHub on blocks and whole networks, against copies whose qkv weights were merged entry by entry."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import cast

import pytest
import torch
from sam2.modeling.backbones.hieradet import MultiScaleBlock
from segment_anything.modeling.image_encoder import Block
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level, ModelSpec, Scope
from samora_pipeline.models.assembly import build_network, load_trained, public_names, trained_state
from samora_pipeline.models.backbones.backbone import BlockSteps
from samora_pipeline.models.backbones.sam import SamBlockSteps
from samora_pipeline.models.backbones.sam2 import Sam2BlockSteps
from samora_pipeline.models.catalog import build_fusion
from samora_pipeline.models.expert_block import ExpertBlock, expert_blocks, only_expert
from samora_pipeline.models.fusions.fusion import fusions_of
from samora_pipeline.models.fusions.merges import set_weights
from samora_pipeline.models.lora import LoRA

WEIGHTS = (0.7, -1.1, 0.4)
DIM = 24
RANK = 3
PAIR = (Level.IMAGE, Level.PIXEL)


def entry(rows: Tensor, columns: Tensor) -> Tensor:
    """B A, one entry at a time."""
    product = torch.zeros(rows.shape[0], columns.shape[1], dtype=rows.dtype)
    for i in range(product.shape[0]):
        for j in range(product.shape[1]):
            product[i, j] = sum(rows[i, k] * columns[k, j] for k in range(rows.shape[1]))
    return product


def delta(block: ExpertBlock, name: str, part: str) -> Tensor:
    """What the experts of a block add to the weight of q or v, literally as the methods are defined."""
    experts = list(block.experts.values())
    a, b = ([getattr(expert, f"{part}_{side}").detach() for expert in experts] for side in "ab")
    if name == "lac":
        return torch.stack([entry(rows, columns) for rows, columns in zip(b, a, strict=True)]).mean(0)
    weights = WEIGHTS[: len(experts)]
    summed_a, summed_b = (sum(w * one for w, one in zip(weights, parts, strict=True)) for parts in (a, b))
    return entry(summed_b, summed_a)


def merged(block: ExpertBlock, name: str) -> nn.Module:
    """The bare block with the deltas in the rows of q and v."""
    bare = copy.deepcopy(block.block)
    weight = bare.get_parameter("attn.qkv.weight")
    width = weight.shape[0] // 3
    with torch.no_grad():
        weight[:width] += delta(block, name, "q")
        weight[2 * width :] += delta(block, name, "v")
    return bare


def sam_block(window: int, size: tuple[int, int]) -> tuple[nn.Module, BlockSteps]:
    return Block(DIM, num_heads=3, use_rel_pos=True, window_size=window, input_size=size), SamBlockSteps()


def hiera_block(window: int, pools: bool) -> tuple[nn.Module, BlockSteps]:
    width = 2 * DIM if pools else DIM
    stride = (2, 2) if pools else None
    return MultiScaleBlock(DIM, width, num_heads=2, q_stride=stride, window_size=window), Sam2BlockSteps()


BLOCKS = {
    "sam global": lambda: sam_block(0, (6, 6)),
    "sam windows": lambda: sam_block(4, (6, 6)),
    "hiera windows": lambda: hiera_block(4, False),
    "hiera global": lambda: hiera_block(0, False),
    "hiera pooling": lambda: hiera_block(4, True),
}


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("name", ["lac", "lorahub"])
@pytest.mark.parametrize("scope", ["block", "attention"])
@pytest.mark.parametrize("levels", [LEVELS, PAIR])
def test_a_merge_is_the_block_with_merged_weights(
    kind: str, name: str, scope: Scope, levels: tuple[Level, ...], randomise: Callable[..., None]
) -> None:
    block, steps = BLOCKS[kind]()
    fusion = build_fusion(FusionSpec(name), num_experts=len(levels), dim=DIM, window=0)
    wrapped = ExpertBlock(block, steps, levels, RANK, fusion=fusion, scope=scope).double()
    randomise(wrapped, 0.3)
    if name == "lorahub":
        set_weights(fusions_of(wrapped), WEIGHTS[: len(levels)])
    x = torch.randn(2, 6, 6, DIM, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(wrapped(x), merged(wrapped, name)(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["lac", "lorahub"])
def test_one_branch_is_run(name: str) -> None:
    block, steps = sam_block(0, (4, 4))
    fusion = build_fusion(FusionSpec(name), num_experts=3, dim=DIM, window=0)
    rows: list[int] = []
    block.get_submodule("attn.proj").register_forward_hook(lambda module, args, output: rows.append(len(output)))
    ExpertBlock(block, steps, LEVELS, RANK, fusion=fusion)(torch.randn(2, 4, 4, DIM))
    assert rows == [2]


@pytest.mark.parametrize("name", ["lac", "lorahub"])
def test_experts_can_still_be_shown_apart(name: str, randomise: Callable[..., None]) -> None:
    network = build_network(ModelSpec("samora_tiny", 64, 2, fusion=FusionSpec(name), lora_rank=4))
    randomise(network, 0.05)
    alone = build_network(ModelSpec("samora_tiny", 64, 2, levels=(Level.PATCH,), lora_rank=4))
    alone.load_state_dict({key: network.state_dict()[key] for key in alone.state_dict()})
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(network(images), alone(images))
        with only_expert(network.image_encoder, Level.PATCH):
            assert torch.equal(network(images), alone(images))


@pytest.mark.parametrize("name", ["lac", "lorahub"])
@pytest.mark.parametrize("backbone", ["samora_tiny", "samora2_tiny"])
def test_a_merged_network_equals_the_plain_one_with_merged_weights(
    name: str, backbone: str, randomise: Callable[..., None]
) -> None:
    decoder = "sam2" if backbone == "samora2_tiny" else "samed"
    network = build_network(ModelSpec(backbone, 64, 2, fusion=FusionSpec(name), decoder=decoder, lora_rank=4)).eval()
    randomise(network, 0.05)
    if name == "lorahub":
        set_weights(fusions_of(network), WEIGHTS)
    plain = build_network(ModelSpec(backbone, 64, 2, levels=(), decoder=decoder, lora_rank=4)).eval()
    state = network.state_dict()
    for path, block in expert_blocks(network.image_encoder).items():
        weight = state[f"image_encoder.{path}.block.attn.qkv.weight"] = (
            block.block.get_parameter("attn.qkv.weight").detach().clone()
        )
        width = len(weight) // 3
        experts = [cast(LoRA, expert).factors for expert in block.experts.values()]
        shares = [1 / 3] * 3 if name == "lac" else list(WEIGHTS)
        for rows, (a, b) in {(0, width): (0, 1), (2 * width, 3 * width): (2, 3)}.items():
            if name == "lac":
                products = [share * expert[b] @ expert[a] for share, expert in zip(shares, experts, strict=True)]
                change = torch.stack(products).sum(0)
            else:
                left, right = (
                    torch.stack([share * expert[side] for share, expert in zip(shares, experts, strict=True)]).sum(0)
                    for side in (b, a)
                )
                change = left @ right
            weight[rows[0] : rows[1]] += change.detach()
    plain.load_state_dict({key: state[key] for key in plain.state_dict()})
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(images), plain(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lac", "lorahub"])
def test_new_experts_change_nothing(name: str) -> None:
    network = build_network(ModelSpec("samora_tiny", 64, 2, fusion=FusionSpec(name), lora_rank=4))
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        fused = network.embed(images).embedding
        with only_expert(network.image_encoder, None):
            assert torch.equal(fused, network.embed(images).embedding)


def test_the_weights_of_lorahub_start_equal_and_travel_with_the_trained_state() -> None:
    network = build_network(ModelSpec("samora_tiny", 64, 2, fusion=FusionSpec("lorahub"), lora_rank=4))
    assert len(fusions_of(network)) == 6
    for fusion in fusions_of(network):
        torch.testing.assert_close(fusion.weights, torch.full((3,), 1 / 3))
        assert not list(fusion.parameters())
    set_weights(fusions_of(network), WEIGHTS)
    again = build_network(ModelSpec("samora_tiny", 64, 2, fusion=FusionSpec("lorahub"), lora_rank=4))
    load_trained(again, trained_state(network))
    assert all(torch.equal(fusion.weights, torch.tensor(WEIGHTS)) for fusion in fusions_of(again))
    assert not any("weights" in public and "fusion" in public for public in public_names(network))


def test_lorahub_multiplies_across_experts_and_lac_does_not() -> None:
    """With B of the first expert and A of the second alone, LAC's delta is zero and LoRAHub's is not."""
    block, steps = sam_block(0, (4, 4))
    results = {}
    for name in ("lac", "lorahub"):
        fusion = build_fusion(FusionSpec(name), num_experts=2, dim=DIM, window=0)
        wrapped = ExpertBlock(block, steps, PAIR, RANK, fusion=fusion)
        with torch.no_grad():
            for expert, kept in zip(wrapped.experts.values(), "ba", strict=True):
                for part in ("q_a", "q_b", "v_a", "v_b"):
                    getattr(expert, part).fill_(float(part.endswith(kept)))
        factors = fusion([expert.factors for expert in wrapped.experts.values()])
        results[name] = bool((factors.q_b @ factors.q_a).any())
    assert results == {"lac": False, "lorahub": True}
