"""The contract that every registered backbone, fusion and decoder meets."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level, ModelSpec, Scope
from samora_pipeline.errors import UsageError
from samora_pipeline.models.assembly import build_network, public_names
from samora_pipeline.models.catalog import BACKBONES, DECODERS, FUSIONS, build_fusion
from samora_pipeline.models.decoders.sam import OnMaskDecoder
from samora_pipeline.models.decoders.skips import SkipDecoder
from samora_pipeline.models.expert_block import expert_blocks, only_expert
from samora_pipeline.models.fusions.fusion import Fusion, Merge
from samora_pipeline.models.lora import LoRA

TINY = BACKBONES.get("samora_tiny")
FOR_DECODER = {"sam2": "samora2_tiny", "skips": "samora_small"}
ONLY_SIZE = {"hsam_released": 224}
"""decoders that do not work at every input size"""


@pytest.mark.parametrize("name", BACKBONES.names())
def test_backbone(name: str) -> None:
    backbone = BACKBONES.get(name)
    size = 224
    grid = backbone.grid(size)
    with torch.device("meta"):
        encoder = backbone.build_encoder(size)
        images = torch.rand(2, 3, size, size)
        embedding, skips = encoder(images)
        assert embedding.shape == (2, backbone.prompt_dim, grid, grid)
        sides = tuple(feature.shape[-1] for feature in (embedding, *skips))
        assert sides[: len(encoder.feature_sides)] == encoder.feature_sides
        taps = encoder.forward_tokens(images, (backbone.depth, 1))
        last = encoder.shapes[-1]
        hidden = torch.zeros(2, last.side, last.side, dtype=torch.bool)
        masked = encoder(images, token_mask=hidden, mask_token=torch.zeros(encoder.embed_dim))
        prompts = backbone.build_prompt_encoder(size)
        sparse, dense = prompts(points=None, boxes=None, masks=None)
        decoder = backbone.build_mask_decoder(3)
    assert [tap.shape for tap in taps] == [(2, s.side, s.side, s.width) for s in (last, encoder.shapes[0])]
    assert len(encoder.shapes) == encoder.depth
    assert masked.embedding.shape == (2, backbone.prompt_dim, grid, grid)
    assert len(encoder.blocks) == encoder.depth == backbone.depth
    assert encoder.grid == grid
    assert dense.shape == (1, backbone.prompt_dim, grid, grid)
    assert sparse.shape == (1, 0, backbone.prompt_dim)
    assert decoder is None or decoder.mask_tokens.weight.shape[0] == 3
    assert (decoder is None) == backbone.trained_whole
    with pytest.raises(UsageError, match="E-MODEL-01"):
        backbone.grid(size + 1)


@pytest.mark.parametrize("name", BACKBONES.names())
def test_steps_of_a_backbone_put_together_are_its_block(name: str) -> None:
    backbone = BACKBONES.get(name)
    with torch.device("meta"):
        encoder = backbone.build_encoder(224)
        block, width = encoder.blocks[0], encoder.embed_dim
    block = block.to_empty(device="cpu")
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(0, 0.02)
        for buffer in block.buffers():
            buffer.zero_()
        x = torch.randn(1, 4, 4, width)
        shortcut, windows = backbone.steps.enter(block, x)
        size = (shortcut.shape[1], shortcut.shape[2])
        attended = backbone.steps.attend(block, block.get_submodule("attn.qkv")(windows), size)
        assert torch.equal(backbone.steps.leave(block, shortcut + attended), block(x))
    assert backbone.steps.window(block) >= 0


@pytest.mark.parametrize("name", BACKBONES.names())
def test_backbone_in_a_network_keeps_public_names(name: str) -> None:
    with torch.device("meta"):
        network = build_network(
            ModelSpec(name, 224, num_outputs=3, decoder=BACKBONES.get(name).own_decoder, lora_rank=4)
        )
        bare = BACKBONES.get(name).build_encoder(224)
    encoder = {public for public in public_names(network) if public.startswith("image_encoder.")}
    assert encoder == {f"image_encoder.{own}" for own in bare.state_dict()}


def make_fusion(name: str, *, num_experts: int = 3, window: int = 0, residual: str = "delta") -> Fusion | Merge:
    has_residual = "residual" in {field.name for field in fields(FUSIONS.get(name).Options)}
    spec = FusionSpec(name, options={"residual": residual} if has_residual else {})
    return build_fusion(spec, num_experts=num_experts, dim=96, window=window)


MERGES = [name for name in FUSIONS.names() if isinstance(make_fusion(name), Merge)]
OF_BRANCHES = [name for name in FUSIONS.names() if name not in MERGES]


@pytest.mark.parametrize("name", FUSIONS.names())
@pytest.mark.parametrize("backbone", ["samora_tiny", "samora2_tiny", "samora_small"])
@pytest.mark.parametrize("scope", ["block", "attention"])
@pytest.mark.parametrize("levels", [LEVELS, LEVELS[:2]])
def test_a_fusion_in_a_network(name: str, backbone: str, scope: Scope, levels: tuple[Level, ...]) -> None:
    """New experts have no effect, so the network starts as the plain backbone whatever fuses them."""
    torch.manual_seed(0)
    spec = ModelSpec(backbone, 64, 2, levels=levels, fusion=FusionSpec(name, scope=scope), lora_rank=4)
    network = build_network(replace(spec, decoder=BACKBONES.get(backbone).own_decoder))
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        start = network.embed(images).embedding
        with only_expert(network.image_encoder, None):
            torch.testing.assert_close(start, network.embed(images).embedding)
        for block in expert_blocks(network.image_encoder).values():
            for parameter in block.experts.parameters():
                parameter.normal_(0, 0.1)
        assert not torch.allclose(start, network.embed(images).embedding)


@pytest.mark.parametrize("name", MERGES)
@pytest.mark.parametrize("num_experts", [2, 3])
def test_merge(name: str, num_experts: int) -> None:
    torch.manual_seed(0)
    merge = make_fusion(name, num_experts=num_experts)
    experts = [LoRA(24, 96, 4) for _ in range(num_experts)]
    for expert in experts:
        for parameter in expert.parameters():
            torch.nn.init.normal_(parameter)
    factors = merge([expert.factors for expert in experts])
    x, qkv = torch.randn(2, 5, 24), torch.randn(2, 5, 3 * 96)
    added = factors.adapt(qkv, x)
    assert added.shape == qkv.shape
    assert torch.equal(added[..., 96:192], qkv[..., 96:192])  # k is left alone
    added.square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for expert in experts for p in expert.parameters())
    assert all(p.grad is not None for p in merge.parameters())


@pytest.mark.parametrize("name", OF_BRANCHES)
@pytest.mark.parametrize("num_experts", [2, 3])
@pytest.mark.parametrize("window", [0, 4])
@pytest.mark.parametrize("residual", ["delta", "paper"])
def test_fusion(name: str, num_experts: int, window: int, residual: str) -> None:
    torch.manual_seed(0)
    fusion = make_fusion(name, num_experts=num_experts, window=window, residual=residual)
    base = torch.randn(2, 6, 5, 96)
    experts = torch.randn(num_experts, 2, 6, 5, 96, requires_grad=True)
    fused = fusion(base, experts)
    assert fused.shape == base.shape
    assert torch.isfinite(fused).all()
    # One step away from the start every trained part of the fusion is reached, and the experts through it.
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    fusion(base, experts).square().sum().backward()
    assert experts.grad is not None
    assert all(expert.any() for expert in experts.grad)
    assert all(p.grad is not None for p in fusion.parameters())


@pytest.mark.parametrize("name", OF_BRANCHES)
def test_samples_do_not_see_each_other_in_a_fusion(name: str) -> None:
    torch.manual_seed(0)
    fusion = make_fusion(name, window=4)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.normal_(0, 0.2)
        base, experts = torch.randn(2, 6, 5, 96), torch.randn(3, 2, 6, 5, 96)
        torch.testing.assert_close(fusion(base, experts)[1:], fusion(base[1:], experts[:, 1:]))


@pytest.mark.parametrize("name", DECODERS.names())
@pytest.mark.parametrize("num_outputs", [1, 2, 5])
def test_decoder(name: str, num_outputs: int) -> None:
    torch.manual_seed(0)
    size = ONLY_SIZE.get(name, 64)
    backbone = FOR_DECODER.get(name, "samora_tiny")
    network = build_network(ModelSpec(backbone, size, num_outputs, decoder=name, lora_rank=4))
    images = torch.rand(2, 1, size, size)
    logits = network(images)
    assert logits.shape[:2] == (2, num_outputs)
    assert logits.shape[2] == logits.shape[3] >= 4 * TINY.grid(size)
    assert torch.isfinite(logits).all()
    network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network(images)[1:], network(images[1:]))
        stages = network.stages(images)
        assert torch.equal(stages[-1], network(images))
        assert all(stage.shape[:2] == (2, num_outputs) for stage in stages)
    own = network.state_dict()
    assert all(f"decoder.{name}" in own for name in network.decoder.public_names().values())


@pytest.mark.parametrize("name", DECODERS.names())
@pytest.mark.parametrize("backbone", ["samora_tiny", "samora2_tiny"])
def test_a_decoder_on_a_mask_decoder_refuses_the_backbones_of_another_family(backbone: str, name: str) -> None:
    spec = ModelSpec(backbone, ONLY_SIZE.get(name, 64), num_outputs=2, decoder=name, lora_rank=4)
    home = replace(spec, backbone=FOR_DECODER.get(name, "samora_tiny"))
    if home == spec or not isinstance(build_network(home).decoder, (OnMaskDecoder, SkipDecoder)):
        assert build_network(spec).decoder is not None
    else:
        with pytest.raises(UsageError, match="E-MODEL-06"):
            build_network(spec)


def test_the_small_backbones() -> None:
    assert {name for name in BACKBONES.names() if BACKBONES.get(name).small} >= {"samora_tiny", "samora2_tiny"}
    assert not any(BACKBONES.get(name).small for name in BACKBONES.names() if name.startswith(("sam_", "sam2_")))


@pytest.mark.parametrize("name", BACKBONES.names())
def test_the_own_decoder_of_a_backbone_holds_its_mask_decoder_alone(name: str) -> None:
    with torch.device("meta"):
        backbone = BACKBONES.get(name)
        network = build_network(
            ModelSpec(name, 224, num_outputs=3, levels=(), decoder=backbone.own_decoder, lora_rank=4)
        )
        bare = backbone.build_mask_decoder(3)
    if bare is None:
        assert network.decoder.public_names() == {}
        return
    assert {f"mask_decoder.{own}" for own in bare.state_dict()} == set(network.decoder.state_dict())
