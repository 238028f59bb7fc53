"""The decoder of masked patches, with the encoder and the loss it works between."""

from __future__ import annotations

import torch

from samora_pipeline.models.backbones.sam import SAMORA_TINY
from samora_pipeline.models.pretraining_heads import PatchDecoder
from samora_pipeline.objectives.features import masked_reconstruction, patches


def test_shapes_agree_with_the_patches_of_the_loss() -> None:
    decoder = PatchDecoder(96, channels=2)
    images = torch.rand(2, 2, 64, 64)
    assert decoder(torch.randn(2, 4, 4, 96)).shape == patches(images, 16).shape
    assert sum(p.numel() for p in decoder.parameters()) == 96 + 97 * 512


def test_the_hidden_token_and_the_encoder_learn_from_hidden_patches() -> None:
    encoder, decoder = SAMORA_TINY.build_encoder(64), PatchDecoder(96, channels=1)
    images = torch.rand(2, 1, 64, 64)
    mask = torch.rand(2, 4, 4) < 0.75
    (tokens,) = encoder.forward_tokens(
        images.expand(-1, 3, -1, -1), (encoder.depth,), token_mask=mask, mask_token=decoder.mask_token
    )
    masked_reconstruction(decoder(tokens), images, mask).backward()
    for parameter in (decoder.mask_token, encoder.pos_embed, *decoder.layers.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


def test_it_learns_where_pixels_of_a_patch_lie() -> None:
    """Least squares on the decoder's own features reproduces images whose tokens hold their patches."""
    images = torch.rand(8, 1, 8, 8)
    decoder = PatchDecoder(64, channels=1, patch_size=4)
    mixing = torch.randn(16, 64)
    tokens = patches(images, 4) @ mixing
    optimizer = torch.optim.Adam(decoder.parameters(), lr=0.02)
    mask = torch.ones(8, 2, 2, dtype=torch.bool)
    losses = []
    for _ in range(150):
        loss = masked_reconstruction(decoder(tokens), images, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 * losses[0]
