"""SAMed's decoder: SAM's mask decoder with one mask token per output map, all maps returned.

Shapes: B batch, P prompt width, g side of the embedding grid, K output maps.
"""

from __future__ import annotations

from segment_anything.modeling import MaskDecoder
from torch import Tensor

from samora_pipeline.models.backbones.backbone import Backbone, Features
from samora_pipeline.models.decoders.decoder import Decoder, foreign


class SamedDecoder(Decoder):
    """Logits at low resolution, (B,K,4g,4g): 56 px for an input of 224 px. The predicted mask quality is not used.

    Raises:
        UsageError: ``E-MODEL-06`` a backbone without SAM's mask decoder.
    """

    def __init__(self, backbone: Backbone, *, num_outputs: int, input_size: int) -> None:
        super().__init__()
        self.mask_decoder = backbone.build_mask_decoder(num_outputs)
        if not isinstance(self.mask_decoder, MaskDecoder):
            raise foreign(
                "SAMed's decoder",
                self.mask_decoder,
                expected="a backbone of the SAM family",
                fix=f"--set model.decoder={backbone.own_decoder}",
            )

    def forward(self, features: Features, positions: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Decode the embedding (B,P,g,g) to (B,K,4g,4g); SAM has no finer features."""
        maps: Tensor
        maps, _ = self.mask_decoder.predict_masks(
            image_embeddings=features.embedding,
            image_pe=positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
        )
        return maps
