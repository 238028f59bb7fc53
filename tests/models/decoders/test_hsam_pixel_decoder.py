from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.models.decoders.hsam import HierarchicalPixelDecoder

P, K, G = 32, 3, 2


def slow_doubling(layer: Any, image: Tensor) -> Tensor:
    """A transposed convolution with kernel and stride 2: each pixel becomes four of its own."""
    channels, side = layer.out_channels, image.shape[1]
    out = torch.zeros(channels, 2 * side, 2 * side)
    for i in range(2 * side):
        for j in range(2 * side):
            out[:, i, j] = image[:, i // 2, j // 2] @ layer.weight[:, :, i % 2, j % 2] + layer.bias
    return out


def slow_norm(layer: Any, image: Tensor) -> Tensor:
    centred = image - image.mean(0)
    normal = centred / (centred.square().mean(0) + 1e-6).sqrt()
    return layer.weight[:, None, None] * normal + layer.bias[:, None, None]


def test_maps_are_those_of_the_slow_decoder(randomise: Callable[..., None]) -> None:
    decoder = HierarchicalPixelDecoder(P, K)
    randomise(decoder, 0.3)
    image, earlier, tokens = torch.randn(2, P, G, G), torch.randn(2, P // 8, 4 * G, 4 * G), torch.randn(2, K, P)
    with torch.no_grad():
        got = decoder(image, earlier, tokens)
        assert got.shape == (2, K, 16 * G, 16 * G)
        up, joined = decoder.upscaling, decoder.joined
        x = functional.gelu(slow_norm(up[1], slow_doubling(up[0], image[1])))
        x = functional.gelu(slow_doubling(up[3], x))
        x = torch.cat((x, earlier[1]))
        x = functional.gelu(slow_norm(joined[1], slow_doubling(joined[0], x)))
        x = functional.gelu(slow_norm(joined[4], slow_doubling(joined[3], x)))
        mlp: Any
        for k, mlp in enumerate(decoder.hyper_mlps):
            weights = tokens[1, k]
            for number, layer in enumerate(mlp.layers):
                weights = layer.weight @ weights + layer.bias
                weights = weights.relu() if number < 4 else weights
            expected = sum(weights[c] * x[c] for c in range(P // 16))
            torch.testing.assert_close(got[1, k], expected, rtol=1e-4, atol=1e-5)


def test_the_skip_and_every_token_matter(randomise: Callable[..., None]) -> None:
    decoder = HierarchicalPixelDecoder(P, K)
    randomise(decoder, 0.3)
    inputs = [torch.randn(1, P, G, G), torch.randn(1, P // 8, 4 * G, 4 * G), torch.randn(1, K, P)]
    for tensor in inputs:
        tensor.requires_grad_()
    decoder(*inputs).square().sum().backward()
    for tensor in inputs:
        assert tensor.grad is not None
        assert (tensor.grad != 0).float().mean() > 0.9
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in decoder.parameters())


def test_sizes_of_the_public_code() -> None:
    with torch.device("meta"):
        decoder = HierarchicalPixelDecoder(256, 9)
    counts = [sum(p.numel() for p in part.parameters()) for part in decoder.children()]
    assert counts == [73_952, 10_384, 2_405_520]
