"""SAM 2's mask decoder with one mask token per output map, all maps returned.

Shapes: B batch, P prompt width, g side of the embedding grid, K output maps.
"""

from __future__ import annotations

from sam2.modeling.sam.mask_decoder import MaskDecoder
from torch import Tensor

from samora_pipeline.models.backbones.backbone import Backbone, Features
from samora_pipeline.models.decoders.decoder import Decoder, foreign


class Sam2Decoder(Decoder):
    """Logits at low resolution, (B,K,4g,4g), with the encoder's finer features added while upscaling.

    The predicted mask quality and the score for whether an object is there are not used.

    Raises:
        UsageError: ``E-MODEL-06`` a backbone without SAM 2's mask decoder.
    """

    def __init__(self, backbone: Backbone, *, num_outputs: int, input_size: int) -> None:
        super().__init__()
        self.mask_decoder = backbone.build_mask_decoder(num_outputs)
        if not isinstance(self.mask_decoder, MaskDecoder):
            raise foreign(
                "SAM 2's decoder",
                self.mask_decoder,
                expected="a backbone of the SAM 2 family",
                fix=f"--set model.decoder={backbone.own_decoder}",
            )

    def forward(self, features: Features, positions: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Decode an embedding (B,P,g,g) with skips (B,P,4g,4g) and (B,P,2g,2g) to (B,K,4g,4g)."""
        fine, middle = features.skips
        maps: Tensor
        maps, *_ = self.mask_decoder.predict_masks(
            image_embeddings=features.embedding,
            image_pe=positions,
            sparse_prompt_embeddings=sparse.expand(len(features.embedding), -1, -1),
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=[self.mask_decoder.conv_s0(fine), self.mask_decoder.conv_s1(middle)],
        )
        return maps
