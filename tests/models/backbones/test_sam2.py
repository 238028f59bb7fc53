"""SAM 2 backbones against sam2's own classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from sam2.modeling.backbones.image_encoder import ImageEncoder
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.errors import UsageError
from samora_pipeline.models.backbones.backbone import PIXEL_MEAN, PIXEL_STD
from samora_pipeline.models.backbones.sam2 import SAM2_HIERA_B_PLUS, SAMORA2_TINY, Sam2Backbone, Sam2Encoder
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.expert_block import block_widths

SHORT_B_PLUS = Sam2Backbone(embed_dim=112, heads=2, stages=(1, 1, 2, 1), global_attn_indexes=(3,))
"""every kind of block of Hiera-B+ at its own width"""


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return (images - mean) / std


def copied(encoder: Sam2Encoder, reference: ImageEncoder) -> None:
    """Read the reference's weights; the embedding of no memory, which it does not have, becomes zero."""
    state = {name.removeprefix("trunk."): tensor for name, tensor in reference.state_dict().items()}
    encoder.load_state_dict(state | {"no_mem_embed": torch.zeros_like(encoder.no_mem_embed)})


@pytest.mark.parametrize(
    ("geometry", "size"), [(SAMORA2_TINY, 128), (SAMORA2_TINY, 224), (SAMORA2_TINY, 512), (SHORT_B_PLUS, 224)]
)
def test_encoder_is_that_of_the_reference(
    geometry: Sam2Backbone, size: int, randomise: Callable[..., None], reference_sam2_encoder: Callable[..., nn.Module]
) -> None:
    reference = reference_sam2_encoder(geometry)
    randomise(reference, 0.05)
    encoder = geometry.build_encoder(size)
    copied(encoder, reference)
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        expected = reference(normalised(images))["backbone_fpn"]
        embedding, skips = encoder(images)
    assert embedding.shape == (2, geometry.prompt_dim, size // 16, size // 16)
    for got, wanted in zip((*skips, embedding), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_the_embedding_of_no_memory_is_added_to_the_embedding_alone() -> None:
    encoder = SAMORA2_TINY.build_encoder(64)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = encoder(images)
        encoder.no_mem_embed.add_(1)
        after = encoder(images)
    torch.testing.assert_close(after.embedding, before.embedding + 1)
    assert all(torch.equal(*pair) for pair in zip(after.skips, before.skips, strict=True))


@pytest.mark.parametrize("index", range(SAMORA2_TINY.depth))
@pytest.mark.parametrize("size", [(8, 8), (10, 6), (28, 28)])
def test_steps_put_together_are_the_block(index: int, size: tuple[int, int], randomise: Callable[..., None]) -> None:
    """Also where the grid is no multiple of the window."""
    block = SAMORA2_TINY.build_encoder(64).blocks[index]
    randomise(block)
    steps = SAMORA2_TINY.steps
    with torch.no_grad():
        x = torch.randn(2, *size, block_widths(block)[0])
        expected = block(x)
        shortcut, windows = steps.enter(block, x)
        attended = steps.attend(block, block.get_submodule("attn.qkv")(windows), (shortcut.shape[1], shortcut.shape[2]))
        got = steps.leave(block, shortcut + attended)
    assert torch.equal(got, expected)


def test_windows_are_counted_on_the_output_grid() -> None:
    with torch.device("meta"):
        blocks = SAM2_HIERA_B_PLUS.build_encoder(512).blocks
    windows = [SAM2_HIERA_B_PLUS.steps.window(block) for block in blocks]
    stages = [[8] * 2, [4, 4, 4], [2] + [14] * 15, [7, 7, 7]]
    expected = [window for stage in stages for window in stage]
    for index in (12, 16, 20):
        expected[index] = 0
    assert windows == expected


def test_hidden_squares_cannot_be_seen() -> None:
    """Patches overlap their neighbours; what lies inside a hidden square still reaches nothing."""
    encoder = SAMORA2_TINY.build_encoder(96)
    mask = torch.tensor([[[False, True, False], [False, False, True], [True, False, False]]])
    token = torch.randn(24)
    images, other = torch.rand(1, 3, 96, 96), torch.rand(1, 3, 96, 96)
    pixels = mask.repeat_interleave(32, 1).repeat_interleave(32, 2)[:, None]
    with torch.no_grad():
        first = encoder(images, token_mask=mask, mask_token=token)
        second = encoder(torch.where(pixels, other, images), token_mask=mask, mask_token=token)
        third = encoder(torch.where(pixels, images, other), token_mask=mask, mask_token=token)
    assert torch.equal(first.embedding, second.embedding)
    assert not torch.equal(first.embedding, third.embedding)


def test_the_mask_token_replaces_hidden_patches_before_positions() -> None:
    encoder = SAMORA2_TINY.build_encoder(64)
    mask = torch.tensor([[[True, False], [False, False]]])
    token = torch.randn(24)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        got = encoder.embed_patches(images, mask, token)
        background = functional.interpolate(encoder.pos_embed, (16, 16), mode="bicubic")
        positions = (background + encoder.pos_embed_window.repeat(1, 1, 2, 2)).permute(0, 2, 3, 1)
        plain = encoder.embed_patches(images, None, None)
    torch.testing.assert_close(got[:, :8, :8], (token + positions)[:, :8, :8])
    # The patch behind the rim of a hidden square also sees three columns of it, which are blank now.
    torch.testing.assert_close(got[:, 9:], plain[:, 9:])
    assert not torch.equal(got[:, 8, :8], plain[:, 8, :8])


@pytest.mark.parametrize("name", ["sam2_hiera_b+", "samora2_tiny"])
def test_input_size_must_be_whole_squares_of_the_last_stage(name: str) -> None:
    with pytest.raises(UsageError, match="E-MODEL-01") as caught:
        BACKBONES.get(name).build_encoder(240)
    assert "multiple of 32" in caught.value.expected
    assert "input_size=256" in caught.value.fix


def test_tiny_is_tiny() -> None:
    parts = (
        SAMORA2_TINY.build_encoder(128),
        SAMORA2_TINY.build_prompt_encoder(128),
        SAMORA2_TINY.build_mask_decoder(4),
    )
    assert 0.8e6 < sum(p.numel() for part in parts for p in part.parameters()) < 1e6


def test_hiera_b_plus_is_that_of_the_reference_at_full_size(reference_sam2_encoder: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    reference = reference_sam2_encoder(SAM2_HIERA_B_PLUS)
    with torch.device("meta"):
        encoder = SAM2_HIERA_B_PLUS.build_encoder(224)
    state = {name.removeprefix("trunk."): tensor for name, tensor in reference.state_dict().items()}
    encoder.load_state_dict(state | {"no_mem_embed": torch.zeros(1, 1, 256)}, assign=True)
    encoder.pixel_mean, encoder.pixel_std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = reference(images)["backbone_fpn"]
        embedding, skips = encoder(images)
    for got, wanted in zip((*skips, embedding), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))
