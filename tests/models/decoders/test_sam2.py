from __future__ import annotations

from collections.abc import Callable

import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import TwoWayTransformer

from samora_pipeline.models.backbones.backbone import Features
from samora_pipeline.models.backbones.sam2 import SAMORA2_TINY
from samora_pipeline.models.decoders.sam import Sam2Decoder


def test_returns_every_map_of_the_reference_decoder(randomise: Callable[..., None]) -> None:
    """The reference hands out token 0 or the others; this decoder hands out both."""
    reference = MaskDecoder(
        transformer_dim=64,
        transformer=TwoWayTransformer(depth=2, embedding_dim=64, num_heads=4, mlp_dim=256),
        num_multimask_outputs=8,
        iou_head_hidden_dim=64,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
    )
    prompts = PromptEncoder(64, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=16)
    randomise(reference, 0.2)
    decoder = Sam2Decoder(SAMORA2_TINY, num_outputs=9, input_size=64)
    decoder.mask_decoder.load_state_dict(reference.state_dict())
    embedding, fine, middle = torch.randn(3, 64, 4, 4), torch.randn(3, 64, 16, 16), torch.randn(3, 64, 8, 8)
    with torch.no_grad():
        sparse, dense = prompts(None, None, None)
        positions = prompts.get_dense_pe()
        finer = [reference.conv_s0(fine), reference.conv_s1(middle)]
        background, classes = (
            reference(embedding, positions, sparse.expand(3, -1, -1), dense, several, False, finer)[0]
            for several in (False, True)
        )
        got = decoder(Features(embedding, (fine, middle)), positions, sparse, dense)
    assert got.shape == (3, 9, 16, 16)
    assert torch.equal(got, torch.cat((background, classes), dim=1))


def test_finer_features_are_heard() -> None:
    decoder = Sam2Decoder(SAMORA2_TINY, num_outputs=2, input_size=64)
    skips = (torch.randn(1, 64, 16, 16, requires_grad=True), torch.randn(1, 64, 8, 8, requires_grad=True))
    positions, sparse, dense = torch.randn(1, 64, 4, 4), torch.zeros(1, 0, 64), torch.randn(1, 64, 4, 4)
    decoder(Features(torch.randn(1, 64, 4, 4), skips), positions, sparse, dense).square().sum().backward()
    assert all(skip.grad is not None and skip.grad.any() for skip in skips)
