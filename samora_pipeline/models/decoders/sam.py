"""Decoders on SAM's and SAM 2's mask decoder: the families' own with one mask token per output map, and AutoSAM's.

AutoSAM runs SAM's mask decoder once per class, with tokens of its own for each and without prompts.

Shapes: B batch, P prompt width, g side of the embedding grid, K output maps.
"""

from typing import Any, ClassVar

import torch
from sam2.modeling.sam.mask_decoder import MaskDecoder as Sam2MaskDecoder
from segment_anything.modeling import MaskDecoder
from torch import Tensor, nn

from samora_pipeline.errors import UsageError
from samora_pipeline.models.backbones.backbone import Backbone, Features
from samora_pipeline.models.decoders.decoder import Decoder


class OnMaskDecoder(Decoder):
    """A decoder that holds the backbone's own mask decoder, which public weights are read into.

    Raises:
        UsageError: ``E-MODEL-06`` a backbone whose mask decoder is of another family than ``family``.
    """

    family: ClassVar[type[nn.Module]] = MaskDecoder

    def __init__(self, backbone: Backbone, *, num_outputs: int, input_size: int) -> None:
        super().__init__()
        self.mask_decoder: Any = backbone.build_mask_decoder(num_outputs)
        if not isinstance(self.mask_decoder, self.family):
            raise UsageError("E-MODEL-06", decoder=self, backbone=backbone, found=str(type(self.mask_decoder)))

    def public_names(self) -> dict[str, str]:
        """All of the mask decoder."""
        return {f"mask_decoder.{name}": f"mask_decoder.{name}" for name in self.mask_decoder.state_dict()}


class SamedDecoder(OnMaskDecoder):
    """SAMed's: logits at low resolution, (B,K,4g,4g): 56 px for an input of 224 px.

    The predicted mask quality is not used.
    """

    def forward(self, features: Features, positions: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Decode the embedding (B,P,g,g) to (B,K,4g,4g); SAM has no finer features."""
        maps, _ = self.mask_decoder.predict_masks(
            image_embeddings=features.embedding,
            image_pe=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        return maps


class Sam2Decoder(OnMaskDecoder):
    """SAM 2's: logits at low resolution, (B,K,4g,4g), with the encoder's finer features added while upscaling.

    The predicted mask quality and the score for whether an object is there are not used.
    """

    family = Sam2MaskDecoder

    def forward(self, features: Features, positions: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Decode an embedding (B,P,g,g) with skips (B,P,4g,4g) and (B,P,2g,2g) to (B,K,4g,4g)."""
        fine, middle = features.skips
        maps, *_ = self.mask_decoder.predict_masks(
            image_embeddings=features.embedding,
            image_pe=positions,
            sparse_prompt_embeddings=sparse.expand(len(features.embedding), -1, -1),
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=[self.mask_decoder.conv_s0(fine), self.mask_decoder.conv_s1(middle)],
        )
        return maps


PUBLIC_MASKS = 4
"""mask tokens of the public files of SAM, so that all of its mask decoder is read"""
TOKENS_PER_CLASS = 2
"""mask tokens that each class has; its map comes from the first (xhu248/AutoSAM, build_autosam_seg_model.py)"""


class AutoSamDecoder(OnMaskDecoder):
    """Logits at low resolution, (B,K,4g,4g) (Hu et al., arXiv 2306.13731; github.com/xhu248/AutoSAM).

    Transformer, upscaling and the hyper-network of the first mask are SAM's and shared by all classes. A class has a
    quality token, which its code draws at random and freezes, and two mask tokens, which learn. There is no embedding
    for having no mask. For 9 outputs 3,649,440 parameters learn, as in its code. Positions are those of SAM's prompt
    encoder, where its code draws a matrix of its own.

    Raises:
        UsageError: ``E-MODEL-06`` a backbone without SAM's mask decoder.
    """

    def __init__(self, backbone: Backbone, *, num_outputs: int, input_size: int) -> None:
        super().__init__(backbone, num_outputs=PUBLIC_MASKS, input_size=input_size)
        self.quality_tokens = nn.Embedding(num_outputs, backbone.prompt_dim)
        self.mask_tokens = nn.Embedding(num_outputs * TOKENS_PER_CLASS, backbone.prompt_dim)

    @property
    def frozen(self) -> tuple[nn.Module, ...]:
        """The quality tokens, and what of SAM's decoder is not used."""
        own = self.mask_decoder
        unused = own.output_hypernetworks_mlps[TOKENS_PER_CLASS:]
        return (self.quality_tokens, own.iou_token, own.iou_prediction_head, own.mask_tokens, unused)

    def forward(self, features: Features, positions: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Decode the embedding (B,P,g,g) to (B,K,4g,4g); prompts are not looked at."""
        embedding, own = features.embedding, self.mask_decoder
        batch, classes = len(embedding), self.quality_tokens.num_embeddings
        masks = self.mask_tokens.weight.view(classes, TOKENS_PER_CLASS, -1)
        tokens = torch.cat((self.quality_tokens.weight[:, None], masks), dim=1).repeat(batch, 1, 1)
        image = embedding.repeat_interleave(classes, dim=0)
        answers, flat = own.transformer(image, positions, tokens)
        upscaled = own.output_upscaling(flat.transpose(1, 2).view_as(image))
        weights = own.output_hypernetworks_mlps[0](answers[:, 1])
        return torch.einsum("np,nphw->nhw", weights, upscaled).view(batch, classes, *upscaled.shape[-2:])
