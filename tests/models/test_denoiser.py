from __future__ import annotations

import pytest
import torch

from samora_pipeline.models.backbones.sam import SAMORA_TINY
from samora_pipeline.models.denoiser import DenoisingDecoder, tap_blocks
from samora_pipeline.objectives.reconstruction import mean_squared_error, patches


@pytest.mark.parametrize(
    ("depth", "taps"),
    [(12, (3, 6, 9, 12)), (24, (6, 12, 18, 24)), (32, (8, 16, 24, 32)), (6, (2, 3, 5, 6)), (2, (1, 1, 2, 2))],
)
def test_taps_are_quarters_of_the_depth(depth: int, taps: tuple[int, ...]) -> None:
    assert tap_blocks(depth) == taps


@pytest.mark.parametrize(("embed_dim", "grid", "channels"), [(96, 8, 1), (96, 3, 4), (256, 2, 2)])
def test_any_width_and_size_gives_pixels(embed_dim: int, grid: int, channels: int) -> None:
    decoder = DenoisingDecoder(embed_dim, channels)
    taps = [torch.randn(2, grid, grid, embed_dim) for _ in range(4)]
    assert decoder(taps).shape == (2, channels, 16 * grid, 16 * grid)


def test_width_is_32_for_vit_b_and_8_for_the_tiny_encoder() -> None:
    assert DenoisingDecoder(768, 1).leave.in_channels == 32
    assert DenoisingDecoder(96, 1).leave.in_channels == 8


def test_an_image_depends_on_its_own_sample_alone() -> None:
    decoder = DenoisingDecoder(96, 1)
    taps = [torch.randn(3, 2, 2, 96) for _ in range(4)]
    torch.testing.assert_close(decoder(taps)[1:2], decoder([tap[1:2] for tap in taps]), atol=1e-5, rtol=1e-4)


def test_every_depth_of_the_encoder_is_heard() -> None:
    encoder, decoder = SAMORA_TINY.build_encoder(32), DenoisingDecoder(96, 1)
    images = torch.rand(1, 3, 32, 32)
    taps = encoder.forward_tokens(images, tap_blocks(encoder.depth))
    for tap in taps:
        tap.retain_grad()
    mean_squared_error(decoder(taps), images[:, :1]).backward()
    assert all(tap.grad is not None and tap.grad.abs().max() > 0 for tap in taps)
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_detail_inside_a_patch_can_be_restored() -> None:
    """Four images whose tokens hold their patches: far better than the best constant per patch."""
    torch.manual_seed(0)
    images = torch.nn.functional.interpolate(torch.rand(4, 1, 16, 16), size=(32, 32), mode="bilinear")
    cut = patches(images, 16)
    taps = [(cut - 0.5) @ torch.linalg.qr(torch.randn(256, 96))[0] for _ in range(4)]
    decoder = DenoisingDecoder(96, 1)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.01)
    for _ in range(60):
        loss = mean_squared_error(decoder(taps), images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.3 * float(cut.var(dim=-1).mean())
