"""Pixel level: a slice is to be restored from a noisy copy of itself (denoising, section 3.2 and Eq. 1)."""

from __future__ import annotations

from torch import Tensor

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.models.backbones.backbone import Encoder
from samora_pipeline.models.denoiser import DenoisingDecoder, tap_blocks
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.objectives.reconstruction import mean_squared_error
from samora_pipeline.slices.augmentation import allowed_flips
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.noise import NoiseSettings, apply_noise, draw_noise, rician_channels
from samora_pipeline.slices.views import MASKED_VIEWS, apply_views, draw_views
from trainers.loading import Batch
from trainers.stages.stage import full_precision


class PixelObjective:
    """Denoising from the tokens of four depths."""

    def __init__(self, source: UnlabelledSource, plans: Plans, encoder: Encoder, seed: int) -> None:
        self._taps = tap_blocks(encoder.shapes)
        shapes = [encoder.shapes[tap - 1] for tap in self._taps]
        self.head = DenoisingDecoder(shapes, plans.input_size.value, len(plans.channel_names))
        self._source, self._seed = source, seed
        self._flips, self._rician = allowed_flips(plans), rician_channels(plans)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Slices, the parameters of one view of each, and of its noise."""
        keys = self._source.keys(indices)
        return {
            "images": self._source.images(indices),
            "view": draw_views(keys, MASKED_VIEWS, self._flips, seed=self._seed, epoch=epoch),
            "noise": draw_noise(keys, NoiseSettings(), seed=self._seed, epoch=epoch),
        }

    def loss(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error against the clean view; ``noisy`` is the error of leaving everything as it is."""
        with full_precision(batch["images"]):
            clean = apply_views(batch["images"], batch["view"])
            noisy = apply_noise(clean, batch["noise"], self._rician)
        restored = self.head(network.image_encoder.forward_tokens(network.to_rgb(noisy), self._taps))
        return mean_squared_error(restored, clean), {"noisy": mean_squared_error(noisy, clean)}
