"""The two-stage decoder against its parts put together slowly, sample by sample, and the counts of H-SAM's code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.errors import UsageError
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.backbones.backbone import Features
from samora_pipeline.models.backbones.sam import SAM_VIT_B, SAMORA_TINY
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.decoders.hsam import HSamDecoder
from samora_pipeline.models.decoders.sam import SamedDecoder
from samora_pipeline.models.freezing import Part, account, freeze
from tests.models.decoders.test_hsam_mask_attention import slow_scores
from tests.models.decoders.test_hsam_transformer import slow_transformer

K, P = 3, 64
Inputs = tuple[Features, Tensor, Tensor, Tensor]


def make_inputs(grid: int, dtype: torch.dtype = torch.float32) -> Inputs:
    generator = torch.Generator().manual_seed(5)
    embedding, positions, dense = (torch.randn(n, P, grid, grid, generator=generator, dtype=dtype) for n in (2, 1, 1))
    return Features(embedding), positions, torch.empty(1, 0, P), dense


def make(grid: int, *, released: bool = False) -> HSamDecoder:
    """A decoder whose layers keep the size of what passes through them, so that differences show in the logits."""
    torch.manual_seed(0)
    decoder = HSamDecoder(SAMORA_TINY, num_outputs=K, input_size=16 * grid, released=released).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            spread = 1.5 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * spread)
    return decoder


def slow_first(decoder: HSamDecoder, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Stage 1 of one sample (P,g,g): logits (K,4g,4g), features (P/8,4g,4g), products of tokens and pixels (K,g,g)."""
    sam: Any = decoder.mask_decoder
    start = torch.cat((sam.iou_token.weight, sam.mask_tokens.weight))
    if decoder.released:
        answers, flat = slow_transformer(sam.transformer, image.flatten(1).T, places.flatten(1).T, start, None)
    else:
        answers, flat = (x[0] for x in sam.transformer(image[None], places[None], start[None]))
    upscaled = sam.output_upscaling(flat.T.reshape(1, *image.shape))[0]
    logits = torch.stack(
        [torch.einsum("c,cij->ij", sam.output_hypernetworks_mlps[k](answers[1 + k]), upscaled) for k in range(K)]
    )
    products = torch.stack([(flat @ answers[1 + k]).reshape(image.shape[1:]) for k in range(K)])
    return logits, upscaled, products


def slow_second(decoder: HSamDecoder, image: Tensor, places: Tensor, first: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    logits, upscaled, products = first
    grid = image.shape[-1]
    if decoder.released:
        image = 2 * image
    else:
        inside = functional.interpolate(products[None], (14, 14), mode="bilinear", align_corners=False)[0]
        scores = torch.tensor(slow_scores(decoder.mask_attention, inside.flatten(1), heads=7), dtype=image.dtype)
        attention = (scores - scores.max()).exp()
        attention = (196 * attention / attention.sum()).reshape(1, 1, 14, 14)
        image = image * (1 + functional.interpolate(attention, (grid, grid), mode="bilinear", align_corners=False)[0])
    # A fourth of the size without smoothing: between the two middle pixels of each four.
    rows = (logits[:, 1::4] + logits[:, 2::4]) / 2
    draft = (rows[:, :, 1::4] + rows[:, :, 2::4]) / 2
    mask = torch.softmax(draft, 0).flatten(1)
    tokens, flat = slow_transformer(
        decoder.transformer, image.flatten(1).T, places.flatten(1).T, decoder.mask_tokens.weight, mask
    )
    return decoder.pixel_decoder(flat.T.reshape(1, *image.shape), upscaled[None], tokens[None])[0]


@pytest.mark.parametrize(("grid", "released"), [(5, False), (14, False), (14, True)])
def test_both_stages_are_the_slow_ones(grid: int, released: bool) -> None:
    # In double precision, because a norm over four channels that are nearly equal magnifies rounding.
    decoder, inputs = make(grid, released=released).double(), make_inputs(grid, torch.float64)
    features, positions, _, dense = inputs
    with torch.no_grad():
        first, second = decoder.stages(*inputs)
        assert first.shape == (2, K, 4 * grid, 4 * grid)
        assert second.shape == (2, K, 16 * grid, 16 * grid)
        image = features.embedding[1] + dense[0]
        expected = slow_first(decoder, image, positions[0])
        assert second.std() > 0.1
        torch.testing.assert_close(first[1], expected[0])
        last = slow_second(decoder, image, positions[0], expected)
        torch.testing.assert_close(second[1], last)
        assert torch.equal(decoder(*inputs), second)


def test_stage_1_is_samed() -> None:
    decoder, inputs = make(4), make_inputs(4)
    samed = SamedDecoder(SAMORA_TINY, num_outputs=K, input_size=64)
    samed.mask_decoder.load_state_dict(decoder.mask_decoder.state_dict())
    with torch.no_grad():
        assert torch.equal(decoder.stages(*inputs)[0], samed(*inputs))


def test_noise_reaches_the_second_stage_and_only_in_training() -> None:
    decoder, inputs = make(4), make_inputs(4)
    target = torch.randint(0, K, (2, 64, 64))
    with torch.no_grad():
        assert torch.equal(decoder.stages(*inputs, target)[1], decoder.stages(*inputs)[1])
        decoder.train()
        one, other = decoder.stages(*inputs, target), decoder.stages(*inputs, target)
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


@pytest.mark.parametrize("released", [False, True])
def test_the_mask_attention_learns_unless_released(released: bool) -> None:
    decoder = make(14, released=released)
    decoder(*make_inputs(14)).square().mean().backward()
    reached = {name for name, p in decoder.mask_attention.named_parameters() if p.grad is not None and p.grad.any()}
    if released:
        assert not reached
        assert decoder.unused is not None
        assert all(parameter.grad is None for parameter in decoder.unused.parameters())
    else:
        everything = {name for name, _ in decoder.mask_attention.named_parameters()}
        assert everything - reached <= {"self_attn1.k_proj.bias", "self_attn2.k_proj.bias"}


def test_without_preference_the_working_form_is_the_released_one() -> None:
    working, released = make(14), make(14, released=True)
    released.load_state_dict(working.state_dict(), strict=False)
    released.released = False  # stage 1 in the order of both
    inputs = make_inputs(14)
    with torch.no_grad():
        assert not torch.allclose(working(*inputs), released(*inputs), atol=1e-3)
        nn.init.zeros_(working.mask_attention.select.weight)
        torch.testing.assert_close(working(*inputs), released(*inputs), rtol=1e-4, atol=1e-4)


def hsam(size: int, decoder: str, *, outputs: int = 9) -> dict[Part, tuple[int, int]]:
    with torch.device("meta"):
        network = build_network(
            ModelSpec("sam_vit_b", size, num_outputs=outputs, levels=(Level.IMAGE,), decoder=decoder, lora_rank=4)
        )
        assert [tuple(logits.shape) for logits in network.stages(torch.empty(1, 1, size, size))] == [
            (1, outputs, size // 4, size // 4),
            (1, outputs, size, size),
        ]
    freeze(network, frozenset({Part.EXPERTS, Part.DECODER, Part.PROMPT, Part.PROMPT_UNUSED}))
    return account(network)


@pytest.mark.parametrize(("size", "total", "trained"), [(224, 99_107_652, 12_483_140), (512, 111_245_520, 23_966_672)])
def test_parameters_of_the_public_code(size: int, total: int, trained: int) -> None:
    counts = hsam(size, "hsam_released")
    assert sum(map(sum, counts.values())) == total
    assert sum(trainable for trainable, _ in counts.values()) == trained


def test_each_class_costs_as_much_as_in_the_public_code() -> None:
    nine, ten = (sum(map(sum, hsam(224, "hsam_released", outputs=k).values())) for k in (9, 10))
    assert ten - nine == 408_115


def test_the_working_decoder_has_the_same_size_at_every_input() -> None:
    small, large = hsam(224, "hsam"), hsam(512, "hsam")
    assert small[Part.DECODER] == large[Part.DECODER]
    # Of the public code's 7,567,727 the quality head and the norms of the masked attentions are never used.
    first = sum(p.numel() for p in SAM_VIT_B.build_mask_decoder(9).parameters())
    assert small[Part.DECODER] == (first + 7_567_727 - 133_897 - 4 * 2_458, 0)


def test_the_public_code_has_two_sizes() -> None:
    with pytest.raises(UsageError, match="E-MODEL-07"):
        HSamDecoder(SAM_VIT_B, num_outputs=9, input_size=256, released=True)


def test_another_family_is_refused() -> None:
    with torch.device("meta"), pytest.raises(UsageError, match="E-MODEL-06"):
        HSamDecoder(BACKBONES.get("sam2_hiera_b+"), num_outputs=3, input_size=224)
