"""Patch level by its own objective: hidden patches are reconstructed from the visible ones, on the whole token grid."""

from __future__ import annotations

from torch import Tensor

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.models.pretraining_heads import PatchDecoder
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.slices.datasets import UnlabelledSource
from trainers.settings import MaskedSettings
from trainers.stages.masked import MaskedObjective, Prediction


class PatchObjective(MaskedObjective[SegmentationNetwork]):
    """Masked reconstruction from the last block's tokens (SimMIM form: no token is dropped)."""

    def __init__(
        self, source: UnlabelledSource, plans: Plans, settings: MaskedSettings, network: SegmentationNetwork, seed: int
    ) -> None:
        encoder = network.image_encoder
        last = encoder.shapes[-1]
        super().__init__(source, plans, last.side, settings, seed)
        patch_size = network.input_size // last.side
        self.decoder = PatchDecoder(last.width, len(plans.channel_names), patch_size, mask_width=encoder.embed_dim)
        self.head = self.decoder

    def predict(self, network: SegmentationNetwork, images: Tensor, mask: Tensor) -> Prediction:
        """See ``MaskedObjective.predict``."""
        encoder = network.image_encoder
        (tokens,) = encoder.forward_tokens(
            network.to_rgb(images), (encoder.depth,), token_mask=mask, mask_token=self.decoder.mask_token
        )
        return Prediction(self.decoder(tokens), images, tokens.mean(dim=(1, 2)))
