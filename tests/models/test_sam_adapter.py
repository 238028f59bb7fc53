"""SAM-Adapter's additions against sums written out, and where they enter the encoder."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor

from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.errors import UsageError
from samora_pipeline.models.assembly import build_network, load_trained, public_names, trained_state
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.freezing import Part, account, freeze
from samora_pipeline.models.sam_adapter import high_frequencies
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.weights.sam_checkpoint import base_state, load_base

SPEC = ModelSpec("samora_tiny", 64, 2, levels=(), block_adapters=True, lora_rank=4)


def slow_high_frequencies(image: Tensor) -> Tensor:
    """The discrete Fourier transform of one channel summed term by term, without frequencies below a quarter."""
    side = len(image)
    half = side // 4
    kept: dict[tuple[int, int], complex] = {}
    for u in range(-side // 2, side // 2):
        for v in range(-side // 2, side // 2):
            if -half <= u < half and -half <= v < half:
                continue
            kept[u, v] = sum(
                float(image[y, x]) * cmath.exp(-2j * math.pi * (u * y + v * x) / side)
                for y in range(side)
                for x in range(side)
            )
    output = torch.empty_like(image)
    for y in range(side):
        for x in range(side):
            value = sum(c * cmath.exp(2j * math.pi * (u * y + v * x) / side) for (u, v), c in kept.items())
            output[y, x] = abs(value.real / side**2)
    return output


def test_high_frequencies_are_a_spectrum_without_its_centre() -> None:
    images = torch.rand(1, 2, 8, 8)
    got = high_frequencies(images)
    for channel in range(2):
        torch.testing.assert_close(got[0, channel], slow_high_frequencies(images[0, channel]), rtol=0, atol=1e-5)


def test_flat_images_have_none_and_edges_have_some() -> None:
    assert high_frequencies(torch.full((1, 3, 16, 16), 0.7)).abs().max() < 1e-6
    edge = torch.zeros(1, 1, 16, 16)
    edge[..., 8:] = 1
    assert high_frequencies(edge)[0, 0, :, 7:9].min() > high_frequencies(edge)[0, 0, :, 3:5].max()


def adapted(randomise: Callable[..., None]) -> SegmentationNetwork:
    network = build_network(SPEC).eval()
    randomise(network, 0.1)
    return network


def test_the_additions_written_out(randomise: Callable[..., None]) -> None:
    network = adapted(randomise)
    module, images = network.block_adapters, torch.rand(1, 3, 64, 64)
    assert module is not None
    with torch.no_grad():
        patches = network.image_encoder.get_submodule("patch_embed")(images)
        got = module(images, patches)
        details = high_frequencies(images)
        for y, x in ((0, 0), (1, 3)):
            square = details[0, :, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
            seen = (module.details.weight * square).sum((1, 2, 3)) + module.get_parameter("details.bias")
            seen = seen + module.tokens.weight @ patches[0, y, x] + module.tokens.bias
            for number, layer in enumerate(module.layers):
                inner = layer.weight @ seen + layer.bias
                inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
                expected = module.shared.weight @ inner + module.shared.bias
                torch.testing.assert_close(got[number][0, y, x], expected, rtol=1e-4, atol=1e-5)


def test_they_are_added_in_front_of_every_block_of_segment_anythings_encoder(
    randomise: Callable[..., None], reference_encoder: Callable[..., ImageEncoderViT]
) -> None:
    network = adapted(randomise)
    reference = reference_encoder(BACKBONES.get("samora_tiny"), 64)
    own = network.state_dict()
    names = {public: key for public, key in public_names(network).items() if public.startswith("image_encoder.")}
    assert network.block_adapters is not None
    reference.load_state_dict({public.removeprefix("image_encoder."): own[key] for public, key in names.items()})
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        rgb = images.expand(-1, 3, -1, -1)
        patches = reference.patch_embed(rgb)
        tokens = patches + reference.pos_embed
        for block, addition in zip(reference.blocks, network.block_adapters(rgb, patches), strict=True):
            tokens = block(addition + tokens)
        expected = reference.neck(tokens.permute(0, 3, 1, 2))
        torch.testing.assert_close(network.embed(images).embedding, expected, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(reference(rgb), expected)


def test_additions_of_zero_leave_sam_as_it_is(randomise: Callable[..., None]) -> None:
    network = adapted(randomise)
    plain = build_network(ModelSpec("samora_tiny", 64, 2, levels=(), lora_rank=4))
    load_base(plain, base_state(network))
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        network.get_parameter("block_adapters.shared.weight").zero_()
        network.get_parameter("block_adapters.shared.bias").zero_()
        assert torch.equal(network.embed(images).embedding, plain.embed(images).embedding)


def test_they_are_saved_with_what_is_trained_and_not_with_the_base(randomise: Callable[..., None]) -> None:
    network = adapted(randomise)
    state = trained_state(network)
    assert sum(name.startswith("block_adapters.") for name in state) == 2 * (3 + 6)
    assert not any("block_adapters" in name for name in base_state(network))
    again = build_network(SPEC).eval()
    load_base(again, base_state(network))
    load_trained(again, state)
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(images), network(images))


def test_size_on_vit_b() -> None:
    with torch.device("meta"):
        network = build_network(ModelSpec("sam_vit_b", 1024, 4, levels=(), block_adapters=True, lora_rank=4))
    freeze(network, frozenset({Part.BLOCK_ADAPTERS, Part.DECODER, Part.PROMPT}))
    counts = account(network)
    assert counts[Part.BLOCK_ADAPTERS] == (63_312, 0)
    # Its code trains all of SAM's mask decoder and the embedding of having no mask.
    assert (counts[Part.DECODER], counts[Part.PROMPT]) == ((4_058_340, 0), (256, 0))
    assert counts[Part.BASE] == (0, 89_670_912)


def test_another_family_is_refused() -> None:
    with pytest.raises(UsageError, match="E-MODEL-08"):
        build_network(ModelSpec("samora2_tiny", 64, 2, levels=(), decoder="sam2", block_adapters=True, lora_rank=4))
