"""SAM backbones against segment_anything's own classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from segment_anything import sam_model_registry
from torch import nn

from samora_pipeline.errors import UsageError
from samora_pipeline.models.backbones.sam import SAMORA_TINY, SamBackbone
from samora_pipeline.models.catalog import BACKBONES

NARROW = SamBackbone(embed_dim=48, depth=3, heads=3, global_attn_indexes=(2,), prompt_dim=32, decoder_mlp_dim=64)


@pytest.mark.parametrize(("geometry", "size"), [(NARROW, 224), (NARROW, 512), (SAMORA_TINY, 128)])
def test_encoder_is_bit_equal_to_the_reference(
    geometry: SamBackbone, size: int, randomise: Callable[..., None], reference_encoder: Callable[..., nn.Module]
) -> None:
    reference = reference_encoder(geometry, size)
    randomise(reference)
    encoder = geometry.build_encoder(size)
    encoder.load_state_dict(reference.state_dict())
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        expected, (got, skips) = reference(images), encoder(images)
    assert skips == ()
    assert got.shape == (1, geometry.prompt_dim, size // 16, size // 16)
    assert torch.equal(got, expected)


def test_taps_are_outputs_of_blocks_in_the_order_asked_for(randomise: Callable[..., None]) -> None:
    encoder = SAMORA_TINY.build_encoder(64)
    randomise(encoder)
    images = torch.rand(2, 3, 64, 64)
    seen: list[torch.Tensor] = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad():
        fourth, second = encoder.forward_tokens(images, (4, 2))
    assert len(seen) == 4
    assert torch.equal(fourth, seen[3])
    assert torch.equal(second, seen[1])
    assert second.shape == (2, encoder.grid, encoder.grid, encoder.embed_dim)


def test_mask_token_replaces_hidden_patches_before_positions() -> None:
    encoder = SAMORA_TINY.build_encoder(64)
    images = torch.rand(2, 3, 64, 64)
    mask = torch.rand(2, 4, 4) < 0.5
    token = torch.randn(96)
    with torch.no_grad():
        (got,) = encoder.forward_tokens(images, (1,), token_mask=mask, mask_token=token)
        embedded = encoder.patch_embed(images)
        for index in mask.nonzero():
            embedded[tuple(index)] = token
        expected = encoder.blocks[0](embedded + encoder.pos_embed)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("taps", [(), (0,), (7,)])
def test_taps_outside_the_encoder_are_refused(taps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="block numbers"):
        SAMORA_TINY.build_encoder(64).forward_tokens(torch.zeros(1, 3, 64, 64), taps)


def test_half_a_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="belong together"):
        SAMORA_TINY.build_encoder(64).forward_tokens(torch.zeros(1, 3, 64, 64), (1,), mask_token=torch.zeros(96))


def test_input_size_must_be_whole_patches() -> None:
    with pytest.raises(UsageError, match="E-MODEL-01") as caught:
        SAMORA_TINY.build_encoder(100)
    assert "input_size=96" in caught.value.fix


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_parts_have_names_shapes_and_sizes_of_the_public_models(name: str) -> None:
    with torch.device("meta"):
        public = sam_model_registry[name]()
        geometry = BACKBONES.get(f"sam_{name}")
        decoder = geometry.build_mask_decoder(4)
        assert isinstance(decoder, nn.Module)
        own = nn.ModuleDict(
            {
                "image_encoder": geometry.build_encoder(1024),
                "prompt_encoder": geometry.build_prompt_encoder(1024),
                "mask_decoder": decoder,
            }
        )
    assert {key: value.shape for key, value in own.state_dict().items()} == {
        key: value.shape for key, value in public.state_dict().items()
    }
    if name == "vit_b":
        assert sum(p.numel() for p in own.parameters()) == 93_735_472


def test_tiny_is_tiny() -> None:
    parts = (SAMORA_TINY.build_encoder(128), SAMORA_TINY.build_prompt_encoder(128), SAMORA_TINY.build_mask_decoder(4))
    assert 0.75e6 < sum(p.numel() for part in parts for p in part.parameters()) < 0.9e6
