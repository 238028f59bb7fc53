from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.samora import SegmentationNetwork


def network(in_channels: int) -> SegmentationNetwork:
    return build_network(ModelSpec("samora_tiny", 64, num_outputs=2, in_channels=in_channels, levels=()))


def test_plain_network_composes_the_reference_parts(randomise: Callable[..., None]) -> None:
    plain = network(1)
    randomise(plain)
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        tokens = plain.image_encoder.patch_embed(images.repeat(1, 3, 1, 1)) + plain.image_encoder.pos_embed
        for block in plain.image_encoder.blocks:
            tokens = block.block(tokens)
        embedding = plain.image_encoder.neck(tokens.permute(0, 3, 1, 2))
        sparse, dense = plain.prompt_encoder(None, None, None)
        positions = plain.prompt_encoder.get_dense_pe()
        expected, _ = plain.decoder.mask_decoder.predict_masks(embedding, positions, sparse, dense)
        got = plain(images)
    assert got.shape == (2, 2, 16, 16)
    assert torch.equal(got, expected)


def test_one_channel_is_repeated_and_three_are_taken_as_they_are() -> None:
    grey, colour = torch.rand(2, 1, 64, 64), torch.rand(2, 3, 64, 64)
    assert torch.equal(network(1).to_rgb(grey), torch.cat((grey, grey, grey), dim=1))
    assert network(3).to_rgb(colour) is not None
    assert torch.equal(network(3).to_rgb(colour), colour)


def test_other_channels_start_as_their_mean_and_are_trained() -> None:
    four = network(4)
    images = torch.rand(2, 4, 64, 64)
    mean = images.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(four.to_rgb(images), mean)
    four(images).sum().backward()
    assert four.adapter is not None
    assert four.adapter.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 128, 128), (1, 1, 64, 32)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        network(1)(torch.rand(shape))
