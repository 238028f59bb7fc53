"""The small backbone and its decoder: a U-Net at the start, SAM's blocks after that, trained and saved whole."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, ModelSpec
from samora_pipeline.errors import UsageError
from samora_pipeline.models.assembly import build_network, load_trained, trained_state
from samora_pipeline.models.backbones.small import SAMORA_SMALL, SmallEncoder
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.freezing import Part, account, parameters_by_part

N = 64
SPEC = ModelSpec("samora_small", N, 3, levels=LEVELS, lora_rank=4, fusion=FusionSpec(), decoder="skips")


def encoder(seed: int = 0) -> SmallEncoder:
    torch.manual_seed(seed)
    """With statistics that are those of some images."""
    network = SAMORA_SMALL.build_encoder(N)
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d | nn.SyncBatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network(torch.rand(4, 3, N, N))
    return network.eval()


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, N, N, generator=torch.Generator().manual_seed(1))


def by_hand(network: SmallEncoder, x: torch.Tensor) -> list[torch.Tensor]:
    """The maps of the stem, written out: two convolutions, batch norm and leaky ReLU each, pooling between."""
    flat = x.flatten(1)
    x = (x - flat.mean(1).view(-1, 1, 1, 1)) / (flat.std(1).view(-1, 1, 1, 1) + 1e-4)
    maps = []
    for level in range(4):
        if level:
            x = x.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).amax((3, 5))
        for number in (0, 3):
            layers: Any = network.stem[level]
            convolution, norm = layers[number], layers[number + 1]
            x = functional.conv2d(x, convolution.weight, padding=1)
            centred = x - norm.running_mean.view(1, -1, 1, 1)
            x = centred / (norm.running_var.view(1, -1, 1, 1) + 1e-5).sqrt()
            x = x * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)
            x = torch.where(x > 0, x, 0.01 * x)
        maps.append(x)
    return maps


def test_stem_blocks_and_neck() -> None:
    network = encoder()
    with torch.no_grad():
        features = network(images())
        *finer, deepest = by_hand(network, images())
        for skip, expected in zip(features.skips, finer, strict=True):
            torch.testing.assert_close(skip, expected, atol=1e-5, rtol=1e-4)
        tokens = deepest.permute(0, 2, 3, 1) + network.pos_embed
        for block in network.blocks:
            changed = block(tokens)
            # Each starts near the identity.
            assert 0 < (changed - tokens).norm() < 0.2 * tokens.norm()
            tokens = changed
        expected = deepest + network.neck(tokens.permute(0, 3, 1, 2))
        torch.testing.assert_close(features.embedding, expected, atol=1e-5, rtol=1e-4)
        (last,) = network.forward_tokens(images(), (network.depth,))
        torch.testing.assert_close(last, tokens, atol=1e-5, rtol=1e-4)
    widths = [16, 32, 64]
    assert [tuple(skip.shape[1:]) for skip in features.skips] == [(w, 16 * N // w, 16 * N // w) for w in widths]


def test_hidden_patches_are_not_seen() -> None:
    network = encoder()
    mask = torch.zeros(1, N // 8, N // 8, dtype=torch.bool)
    mask[0, 2:5, 1:4] = True
    token = torch.zeros(network.embed_dim)
    one, other = images(1), images(1)
    other[0, :, 16:40, 8:32] = torch.rand(3, 24, 24)
    with torch.no_grad():
        seen = [network(x, token_mask=mask, mask_token=token) for x in (one, other)]
        torch.testing.assert_close(seen[0].embedding, seen[1].embedding)
        assert not torch.allclose(network(one).embedding, network(other).embedding)


def test_a_slice_alone_is_as_in_a_batch() -> None:
    network = build_network(SPEC).eval()
    batch = torch.rand(3, 1, N, N)
    with torch.no_grad():
        torch.testing.assert_close(network(batch)[1:2], network(batch[1:2]), atol=1e-5, rtol=1e-4)
        assert network(batch).shape == (3, 3, N, N)


def test_everything_learns_and_is_saved() -> None:
    torch.manual_seed(0)
    network = build_network(SPEC)
    trained = account(network)
    assert trained[Part.BASE][0] > 0
    network(torch.rand(2, 1, N, N)).square().mean().backward()
    # LoRA starts without effect, and so does what joins it.
    parts = parameters_by_part(network)
    assert all(one.grad is not None for one in parts[Part.BASE].values())
    assert any(one.grad is not None and one.grad.any() for one in network.prompt_encoder.no_mask_embed.parameters())
    for block in expert_blocks(network).values():
        for parameter in block.parameters():
            nn.init.normal_(parameter, std=0.05)
    torch.manual_seed(1)
    other = build_network(SPEC)
    load_trained(other, trained_state(network))
    batch = torch.rand(2, 1, N, N)
    with torch.no_grad():
        assert torch.equal(other.eval()(batch), network.eval()(batch))


@pytest.mark.parametrize("size", [60, 40, 4, -8])
def test_sizes_that_the_stem_cannot_halve(size: int) -> None:
    with pytest.raises(UsageError, match="E-MODEL-01"):
        SAMORA_SMALL.grid(size)


def test_the_decoder_needs_fine_features() -> None:
    with pytest.raises(UsageError, match="E-MODEL-06"):
        build_network(replace(SPEC, backbone="samora_tiny"))
