"""H-SAM's transformers against a restatement that goes head by head and token by token."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from segment_anything.modeling import TwoWayTransformer
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn

from samora_pipeline.models.decoders.hsam_attention import (
    MaskedCrossAttention,
    MaskedTwoWayTransformer,
    cross_first,
)

P, K, SIDE, HEADS = 16, 3, 3, 4
L = SIDE * SIDE


def slow_attention(module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, heads: int) -> Tensor:
    """One sample: q (n,P), k and v (m,P), mask (n,m)."""
    q, k, v = module.q_proj(q), module.k_proj(k), module.v_proj(v)
    width = q.shape[1] // heads
    rows = []
    for i in range(len(q)):
        mixed = []
        for head in range(heads):
            own = slice(head * width, (head + 1) * width)
            exponents = [math.exp(float(q[i, own] @ k[j, own]) / math.sqrt(width)) for j in range(len(k))]
            shares = [e / sum(exponents) for e in exponents]
            if mask is not None:
                shares = [share * float(mask[i, j]) for j, share in enumerate(shares)]
            mixed.append(torch.stack([share * v[j, own] for j, share in enumerate(shares)]).sum(0))
        rows.append(module.out_proj(torch.cat(mixed)))
    return torch.stack(rows)


def slow_transformer(
    module: Any, image: Tensor, places: Tensor, tokens: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One sample: image and places (L,P), tokens (T,P), mask (T,L)."""
    keys, queries = image, tokens
    turned = None if mask is None else mask.T
    for number, layer in enumerate(module.layers):
        read = slow_attention(layer.cross_attn_token_to_image, queries + tokens, keys + places, keys, mask, HEADS)
        queries = layer.norm2(queries + read)
        if number == 0:
            queries = layer.norm1(slow_attention(layer.self_attn, queries, queries, queries, None, HEADS))
        else:
            placed = queries + tokens
            queries = layer.norm1(queries + slow_attention(layer.self_attn, placed, placed, queries, None, HEADS))
        hidden = torch.relu(queries @ layer.mlp.lin1.weight.T + layer.mlp.lin1.bias)
        queries = layer.norm3(queries + hidden @ layer.mlp.lin2.weight.T + layer.mlp.lin2.bias)
        keys = layer.norm4(
            keys
            + slow_attention(layer.cross_attn_image_to_token, keys + places, queries + tokens, queries, turned, HEADS)
        )
    last = slow_attention(module.final_attn_token_to_image, queries + tokens, keys + places, keys, None, HEADS)
    return module.norm_final_attn(queries + last), keys


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {
        "image": torch.randn(2, P, SIDE, SIDE, generator=generator),
        "positions": torch.randn(1, P, SIDE, SIDE, generator=generator),
        "tokens": torch.randn(1, K, P, generator=generator),
        "mask": torch.rand(2, K, L, generator=generator),
    }


def flat(maps: Tensor) -> Tensor:
    return maps.flatten(1).T


def test_the_masked_transformer_is_the_slow_one(inputs: dict[str, Tensor], randomise: Callable[..., None]) -> None:
    module = MaskedTwoWayTransformer(P, depth=2, heads=HEADS, mlp_dim=24).eval()
    randomise(module, 0.3)
    with torch.no_grad():
        tokens, image = module(**inputs)
        assert tokens.shape == (2, K, P)
        assert image.shape == (2, L, P)
        for b in range(2):
            expected = slow_transformer(
                module, flat(inputs["image"][b]), flat(inputs["positions"][0]), inputs["tokens"][0], inputs["mask"][b]
            )
            torch.testing.assert_close((tokens[b], image[b]), expected)


def test_sams_own_transformer_in_the_other_order(inputs: dict[str, Tensor], randomise: Callable[..., None]) -> None:
    module = TwoWayTransformer(depth=2, embedding_dim=P, num_heads=HEADS, mlp_dim=24)
    randomise(module, 0.3)
    del inputs["mask"]
    with torch.no_grad():
        tokens, image = cross_first(module, **inputs, mask=None, dropout=0.0)
        expected = slow_transformer(
            module, flat(inputs["image"][1]), flat(inputs["positions"][0]), inputs["tokens"][0], None
        )
        torch.testing.assert_close((tokens[1], image[1]), expected)
        # The order matters: SAM's own forward is another function.
        assert not torch.allclose(tokens, module(inputs["image"], inputs["positions"], inputs["tokens"])[0], atol=1e-3)


def test_a_mask_of_ones_is_plain_attention_and_one_of_zeros_reads_nothing(randomise: Callable[..., None]) -> None:
    masked, plain = MaskedCrossAttention(P, HEADS), Attention(P, HEADS)
    randomise(masked, 0.3)
    plain.load_state_dict(masked.state_dict())
    q, k, v = torch.randn(2, K, P), torch.randn(2, L, P), torch.randn(2, L, P)
    with torch.no_grad():
        torch.testing.assert_close(masked(q, k, v, torch.ones(2, K, L)), plain(q, k, v))
        nothing = masked(q, k, v, torch.zeros(2, K, L))
        torch.testing.assert_close(nothing, masked.out_proj.bias.expand_as(nothing))


def test_the_mask_is_not_normalised_away(randomise: Callable[..., None]) -> None:
    masked = MaskedCrossAttention(P, HEADS)
    randomise(masked, 0.3)
    nn.init.zeros_(masked.out_proj.bias)
    q, k, v = torch.randn(1, K, P), torch.randn(1, L, P), torch.randn(1, L, P)
    with torch.no_grad():
        mask = torch.rand(1, K, L)
        torch.testing.assert_close(masked(q, k, v, 0.5 * mask), 0.5 * masked(q, k, v, mask))


def test_a_map_that_stage_1_finds_nowhere_leaves_the_image_alone(inputs: dict[str, Tensor]) -> None:
    module = MaskedCrossAttention(P, HEADS)
    mask = inputs["mask"].clone()
    mask[:, 1] = 0
    q, k = torch.randn(2, L, P), torch.randn(2, K, P)
    changed = k.clone()
    changed[:, 1] += 5
    with torch.no_grad():
        kept = module(q, k, k, mask.transpose(1, 2))
        values = module(q, k, changed, mask.transpose(1, 2))
    torch.testing.assert_close(values, kept)


def test_the_mask_gets_a_gradient_and_dropout_only_works_in_training(inputs: dict[str, Tensor]) -> None:
    module = MaskedTwoWayTransformer(P, depth=2, heads=HEADS, mlp_dim=24)
    inputs["mask"].requires_grad_()
    module(**inputs)[0].square().sum().backward()
    assert inputs["mask"].grad is not None
    assert (inputs["mask"].grad != 0).all()
    assert not torch.equal(module(**inputs)[0], module(**inputs)[0])
    module.eval()
    assert torch.equal(module(**inputs)[0], module(**inputs)[0])


def test_sizes_of_the_public_code_without_what_it_does_not_use() -> None:
    with torch.device("meta"):
        module = MaskedTwoWayTransformer(256, depth=2, heads=8, mlp_dim=2048)
    # 3,826,920 there, of which four times 2,458 belong to norms that nothing calls.
    assert sum(parameter.numel() for parameter in module.parameters()) == 3_826_920 - 4 * 2_458
