"""AutoSAM's decoder against segment_anything's transformer and layers run for one class and one image at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from segment_anything.modeling import MaskDecoder
from torch import Tensor

from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.models.assembly import build_network, public_names
from samora_pipeline.models.backbones.backbone import Features
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.decoders.sam import AutoSamDecoder
from samora_pipeline.models.freezing import Part, account, freeze
from samora_pipeline.weights.sam_checkpoint import base_state, load_base

K, SIDE = 3, 4
TINY = BACKBONES.get("samora_tiny")


def one_class_at_a_time(decoder: AutoSamDecoder, embedding: Tensor, positions: Tensor) -> Tensor:
    reference: MaskDecoder = decoder.mask_decoder
    images = []
    for image in embedding:
        maps = []
        for number in range(K):
            tokens = torch.stack(
                (
                    decoder.quality_tokens.weight[number],
                    decoder.mask_tokens.weight[2 * number],
                    decoder.mask_tokens.weight[2 * number + 1],
                )
            )
            answers, flat = reference.transformer(image[None], positions, tokens[None])
            grid = flat[0].T.reshape(image.shape)
            upscaled = reference.output_upscaling(grid[None])[0]
            weights = reference.output_hypernetworks_mlps[0](answers[0, 1])
            maps.append(sum(weight * channel for weight, channel in zip(weights, upscaled, strict=True)))
        images.append(torch.stack(maps))
    return torch.stack(images)


def test_each_class_is_a_run_of_its_own(randomise: Callable[..., None]) -> None:
    decoder = AutoSamDecoder(TINY, num_outputs=K, input_size=64)
    randomise(decoder, 0.2)
    embedding, positions = torch.randn(2, 64, SIDE, SIDE), torch.randn(1, 64, SIDE, SIDE)
    with torch.no_grad():
        got = decoder(Features(embedding), positions, torch.empty(1, 0, 64), torch.randn(1, 64, SIDE, SIDE))
        torch.testing.assert_close(got, one_class_at_a_time(decoder, embedding, positions), rtol=1e-4, atol=1e-5)
    assert got.shape == (2, K, 4 * SIDE, 4 * SIDE)


def test_prompts_are_not_looked_at(randomise: Callable[..., None]) -> None:
    network = build_network(ModelSpec("samora_tiny", 64, K, levels=(), decoder="autosam", lora_rank=4))
    images = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        before = network(images)
        randomise(network.prompt_encoder, 3.0)
        assert torch.equal(network(images), before)


@pytest.mark.parametrize(("outputs", "trained"), [(9, 3_649_440), (14, 3_652_000)])
def test_as_many_parameters_learn_as_in_its_code(outputs: int, trained: int) -> None:
    """Transformer, upscaling, two hyper-networks and two mask tokens per class; its code freezes what is called iou."""
    with torch.device("meta"):
        network = build_network(ModelSpec("sam_vit_b", 1024, outputs, levels=(), decoder="autosam", lora_rank=4))
    freeze(network, frozenset({Part.DECODER}))
    counts = account(network)
    assert counts[Part.DECODER] == (trained, 0)
    assert trained == 3_291_264 + 73_952 + 2 * 139_808 + 2 * 256 * outputs
    assert counts[Part.BASE] == (0, 89_670_912)
    assert counts[Part.EXPERTS] == (0, 0)


def test_all_of_sams_mask_decoder_is_read_from_a_public_file(randomise: Callable[..., None]) -> None:
    source = build_network(ModelSpec("samora_tiny", 64, 4, levels=(), lora_rank=4))
    randomise(source, 0.1)
    network = build_network(ModelSpec("samora_tiny", 64, K, levels=(), decoder="autosam", lora_rank=4))
    tokens = network.decoder.get_parameter("mask_tokens.weight").detach().clone()
    report = load_base(network, base_state(source))
    assert not report.dropped
    own = network.state_dict()
    for public, name in public_names(network).items():
        assert torch.equal(own[name], base_state(source)[public])
    assert torch.equal(network.decoder.get_parameter("mask_tokens.weight"), tokens)
