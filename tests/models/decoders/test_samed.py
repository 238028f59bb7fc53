from __future__ import annotations

from collections.abc import Callable

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from samora_pipeline.models.backbones.backbone import Features
from samora_pipeline.models.backbones.sam import SAMORA_TINY
from samora_pipeline.models.decoders.sam import SamedDecoder


def test_returns_every_map_of_the_reference_decoder(randomise: Callable[..., None]) -> None:
    """The reference hands out token 0 or the others; SAMed's decoder hands out both."""
    transformer = TwoWayTransformer(depth=2, embedding_dim=64, num_heads=4, mlp_dim=256)
    reference = MaskDecoder(
        transformer_dim=64, transformer=transformer, num_multimask_outputs=8, iou_head_hidden_dim=64
    )
    prompts = PromptEncoder(64, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=16)
    randomise(reference, 0.2)
    decoder = SamedDecoder(SAMORA_TINY, num_outputs=9, input_size=64)
    decoder.mask_decoder.load_state_dict(reference.state_dict())
    embedding = torch.randn(3, 64, 4, 4)
    with torch.no_grad():
        sparse, dense = prompts(None, None, None)
        positions = prompts.get_dense_pe()
        background, _ = reference(embedding, positions, sparse, dense, multimask_output=False)
        classes, _ = reference(embedding, positions, sparse, dense, multimask_output=True)
        got = decoder(Features(embedding), positions, sparse, dense)
    assert got.shape == (3, 9, 16, 16)
    assert torch.equal(got, torch.cat((background, classes), dim=1))
