from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.backbones.backbone import PIXEL_MEAN, PIXEL_STD
from samora_pipeline.models.backbones.sam import SamBackbone
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.weights.sam_checkpoint import load_base
from tests.weights.test_sam2_checkpoint import PUBLISHED, reference


def network(in_channels: int) -> SegmentationNetwork:
    return build_network(ModelSpec("samora_tiny", 64, num_outputs=2, in_channels=in_channels, levels=(), lora_rank=4))


def test_plain_network_composes_the_reference_parts(randomise: Callable[..., None]) -> None:
    plain = network(1)
    randomise(plain)
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        encoder: Any = plain.image_encoder
        tokens = encoder.patch_embed(images.repeat(1, 3, 1, 1)) + encoder.pos_embed
        for block in encoder.blocks:
            tokens = block.block(tokens)
        embedding = encoder.neck(tokens.permute(0, 3, 1, 2))
        sparse, dense = plain.prompt_encoder(None, None, None)
        positions = plain.prompt_encoder.get_dense_pe()
        mask_decoder: Any = plain.decoder.get_submodule("mask_decoder")
        expected, _ = mask_decoder.predict_masks(embedding, positions, sparse, dense)
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
    gradient = four.get_parameter("adapter.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 128, 128), (1, 1, 64, 32)])
def test_images_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        network(1)(torch.rand(shape))


def whole_sam(geometry: SamBackbone, encoder: nn.Module, size: int) -> Sam:
    """Segment_anything's own model; like SAMed's it takes images in [0,1] as they are."""
    width = geometry.prompt_dim
    transformer = TwoWayTransformer(depth=2, embedding_dim=width, num_heads=8, mlp_dim=geometry.decoder_mlp_dim)
    prompts = PromptEncoder(width, (size // 16, size // 16), (size, size), mask_in_chans=16)
    decoder = MaskDecoder(transformer_dim=width, transformer=transformer, num_multimask_outputs=3)
    return Sam(encoder, prompts, decoder, pixel_mean=[0.0, 0.0, 0.0], pixel_std=[1.0, 1.0, 1.0]).eval()


def without_prompts(sam: Sam, images: Tensor) -> Tensor:
    """Low-resolution logits (B,4,n,n) of Sam's forward: it gives the first map, or the three others."""
    records = [{"image": image, "original_size": tuple(image.shape[-2:])} for image in images]
    first, others = (
        torch.cat([answer["low_res_logits"] for answer in sam(records, multimask_output=several)])
        for several in (False, True)
    )
    return torch.cat((first, others), dim=1)


def check_against_sam(name: str, size: int, reference_encoder: Callable[..., nn.Module], scale: float) -> None:
    geometry = BACKBONES.get(name)
    assert isinstance(geometry, SamBackbone)
    torch.manual_seed(0)
    sam = whole_sam(geometry, reference_encoder(geometry, size), size)
    with torch.no_grad():
        for parameter in sam.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    own = build_network(ModelSpec(name, size, num_outputs=4, in_channels=3, lora_rank=4)).eval()
    report = load_base(own, {key: value for key, value in sam.state_dict().items() if not key.startswith("pixel_")})
    assert (report.resized, report.dropped) == ((), ())
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        expected, got = without_prompts(sam, images), own(images)
    assert got.shape == (1, 4, size // 4, size // 4)
    assert expected.std() > 0
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("size", [224, 512])
def test_with_new_experts_it_is_sam_without_prompts(
    size: int, narrow: SamBackbone, reference_encoder: Callable[..., nn.Module]
) -> None:
    check_against_sam("narrow", size, reference_encoder, 0.1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 512])
def test_with_new_experts_it_is_sam_without_prompts_at_full_size(
    size: int, reference_encoder: Callable[..., nn.Module]
) -> None:
    check_against_sam("sam_vit_b", size, reference_encoder, 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("size", [224, 512])
def test_with_new_experts_it_is_sam_2_without_prompts_at_full_size(size: int) -> None:
    """At tiny size this is tested with the files of SAM 2."""
    torch.manual_seed(0)
    sam2 = reference(PUBLISHED["2.1"], size).eval()
    with torch.no_grad():
        for parameter in sam2.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    own = build_network(
        ModelSpec("sam2_hiera_b+", size, num_outputs=4, in_channels=3, decoder="sam2", lora_rank=4)
    ).eval()
    load_base(own, sam2.state_dict())
    images = torch.rand(1, 3, size, size)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    prompts = sam2.sam_prompt_encoder
    with torch.no_grad():
        levels = sam2.forward_image((images - mean) / std)["backbone_fpn"]
        sparse, dense = prompts(points=None, boxes=None, masks=None)
        expected, *_ = sam2.sam_mask_decoder.predict_masks(
            image_embeddings=levels[2] + sam2.no_mem_embed.permute(1, 2, 0)[..., None],
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=levels[:2],
        )
        got = own(images)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_the_mean_of_the_stages_is_taken_at_the_size_of_the_last() -> None:
    """Half-pixel bilinear interpolation by a factor of four, written out along each axis."""
    spec = ModelSpec("samora_tiny", 64, 3, decoder="hsam", decoder_stages="mean", lora_rank=4)
    torch.manual_seed(0)
    network = build_network(spec).eval()
    images = torch.rand(2, 1, 64, 64)
    last_alone = build_network(replace(spec, decoder_stages="last")).eval()
    last_alone.load_state_dict(network.state_dict())
    with torch.no_grad():
        first, last = (stage.double() for stage in network.stages(images))
        place = ((torch.arange(64) + 0.5) / 4 - 0.5).clamp(0, 15).double()
        weights = (1 - (place[:, None] - torch.arange(16)).abs()).clamp(min=0)
        torch.testing.assert_close(network(images).double(), (weights @ first @ weights.T + last) / 2)
        assert torch.equal(last_alone(images).double(), last)


def test_the_mean_of_a_single_stage_is_that_stage() -> None:
    spec = ModelSpec("samora_tiny", 64, 3, decoder_stages="mean", lora_rank=4)
    torch.manual_seed(0)
    network, images = build_network(spec).eval(), torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(network(images), network.stages(images)[-1])
