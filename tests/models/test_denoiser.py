from __future__ import annotations

import pytest
import torch
from torch import nn

from samora_pipeline.models.backbones.backbone import TokenShape
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.pretraining_heads import DenoisingDecoder, tap_blocks
from samora_pipeline.objectives.features import mean_squared_error, patches


def denoiser(width: int, grid: int, channels: int = 1) -> DenoisingDecoder:
    """The decoder of an encoder whose grid and width never change."""
    return DenoisingDecoder([TokenShape(grid, width)] * 4, 16 * grid, channels)


@pytest.mark.parametrize(
    ("depth", "taps"),
    [(12, (3, 6, 9, 12)), (24, (6, 12, 18, 24)), (32, (8, 16, 24, 32)), (6, (2, 3, 5, 6)), (2, (1, 1, 2, 2))],
)
def test_taps_are_quarters_of_the_depth(depth: int, taps: tuple[int, ...]) -> None:
    assert tap_blocks([TokenShape(14, 768)] * depth) == taps


@pytest.mark.parametrize(
    ("name", "taps"), [("sam_vit_b", (3, 6, 9, 12)), ("sam2_hiera_b+", (2, 5, 21, 24)), ("samora2_tiny", (1, 2, 4, 5))]
)
def test_taps_are_the_ends_of_stages_where_there_are_stages(name: str, taps: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert tap_blocks(BACKBONES.get(name).build_encoder(224).shapes) == taps


@pytest.mark.parametrize(("embed_dim", "grid", "channels"), [(96, 8, 1), (96, 3, 4), (256, 2, 2)])
def test_any_width_and_size_gives_pixels(embed_dim: int, grid: int, channels: int) -> None:
    decoder = denoiser(embed_dim, grid, channels)
    taps = [torch.randn(2, grid, grid, embed_dim) for _ in range(4)]
    assert decoder(taps).shape == (2, channels, 16 * grid, 16 * grid)


def test_width_is_32_for_vit_b_and_8_for_the_tiny_encoder() -> None:
    assert denoiser(768, 14).leave.in_channels == 32
    assert denoiser(96, 8).leave.in_channels == 8


def test_an_image_depends_on_its_own_sample_alone() -> None:
    decoder = denoiser(96, 2)
    taps = [torch.randn(3, 2, 2, 96) for _ in range(4)]
    torch.testing.assert_close(decoder(taps)[1:2], decoder([tap[1:2] for tap in taps]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["samora_tiny", "samora2_tiny"])
def test_every_depth_of_the_encoder_is_heard(name: str) -> None:
    encoder = BACKBONES.get(name).build_encoder(32)
    numbers = tap_blocks(encoder.shapes)
    decoder = DenoisingDecoder([encoder.shapes[number - 1] for number in numbers], 32, 1)
    images = torch.rand(1, 3, 32, 32)
    taps = encoder.forward_tokens(images, numbers)
    for tap in taps:
        tap.retain_grad()
    mean_squared_error(decoder(taps), images[:, :1]).backward()
    assert all(tap.grad is not None and tap.grad.abs().max() > 0 for tap in taps)
    assert all(parameter.grad is not None for parameter in decoder.parameters())


@pytest.mark.parametrize("size", [32, 96])
def test_the_tokens_of_four_stages_give_pixels(size: int) -> None:
    """From strides 4, 8, 16 and 32; where a token lies is where it has its effect."""
    shapes = [TokenShape(size // stride, width) for stride, width in ((4, 24), (8, 48), (16, 96), (32, 192))]
    decoder = DenoisingDecoder(shapes, size, 2).eval()
    assert len(decoder.levels) == 5
    taps = [torch.randn(1, shape.side, shape.side, shape.width, requires_grad=True) for shape in shapes]
    images = decoder(taps)
    assert images.shape == (1, 2, size, size)
    # Without the norms, which see the whole map, only tokens near the corner reach its pixel.
    for level in decoder.levels:
        assert isinstance(level, nn.Sequential)
        level[1] = nn.Identity()
    decoder(taps)[0, 0, 0, 0].backward()
    gradient = taps[0].grad
    assert gradient is not None
    finest = gradient[0].abs().sum(-1)
    assert finest[0, 0] > 0
    assert finest[4:].max() == 0


def test_detail_inside_a_patch_can_be_restored() -> None:
    """Four images whose tokens hold their patches: far better than the best constant per patch."""
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(4, 1, 16, 16), size=(32, 32), mode="bilinear")
    cut = patches(images, 16)
    taps = [(cut - 0.5) @ torch.linalg.qr(torch.randn(256, 96))[0] for _ in range(4)]
    decoder = denoiser(96, 2)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.01)
    for _ in range(60):
        loss = mean_squared_error(decoder(taps), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * float(cut.var(dim=-1).mean())
