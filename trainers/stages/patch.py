"""Patch level, recipe ``scratch``: hidden patches are reconstructed from the visible ones, on the whole token grid."""

from __future__ import annotations

from torch import Tensor

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.models.backbones.backbone import Encoder
from samora_pipeline.models.reconstruction import PatchDecoder
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.objectives.reconstruction import masked_reconstruction
from samora_pipeline.slices.augmentation import allowed_flips
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.views import MASKED_VIEWS, apply_views, draw_token_masks, draw_views
from trainers.config import PatchSettings
from trainers.loading import Batch
from trainers.stages.stage import full_precision


class MaskedSlices:
    """Slices, one view of each, and which of their patches are hidden."""

    def __init__(
        self, source: UnlabelledSource, plans: Plans, encoder: Encoder, masked_share: float, seed: int
    ) -> None:
        self._source, self._masked_share, self._seed = source, masked_share, seed
        self._grid = encoder.shapes[-1].side
        self._flips = allowed_flips(plans)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Images (B,C,N,N), the parameters of their views, and the mask (B,g,g), true where a patch is hidden.

        g is the side of the last block's grid: patches have 16 pixels a side for SAM and 32 for SAM 2, the mask
        units of Hiera (arXiv 2306.00989).
        """
        keys = self._source.keys(indices)
        return {
            "images": self._source.images(indices),
            "view": draw_views(keys, MASKED_VIEWS, self._flips, seed=self._seed, epoch=epoch),
            "mask": draw_token_masks(keys, self._grid, self._masked_share, seed=self._seed, epoch=epoch),
        }


class PatchObjective:
    """Masked reconstruction from the last block's tokens (SimMIM form: no token is dropped)."""

    def __init__(
        self, source: UnlabelledSource, plans: Plans, settings: PatchSettings, encoder: Encoder, seed: int
    ) -> None:
        last = encoder.shapes[-1]
        patch_size = plans.input_size.value // last.side
        self.head = PatchDecoder(last.width, len(plans.channel_names), patch_size, mask_width=encoder.embed_dim)
        self._normalised = settings.normalised
        self._slices = MaskedSlices(source, plans, encoder, settings.masked_share, seed)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """See ``MaskedSlices.load``."""
        return self._slices.load(indices, epoch)

    def loss(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over hidden patches, normalised patch by patch as in MAE."""
        encoder, mask = network.image_encoder, batch["mask"]
        with full_precision(batch["images"]):
            images = apply_views(batch["images"], batch["view"])
        (tokens,) = encoder.forward_tokens(
            network.to_rgb(images), (encoder.depth,), token_mask=mask, mask_token=self.head.mask_token
        )
        return masked_reconstruction(self.head(tokens), images, mask, normalised=self._normalised), {}
