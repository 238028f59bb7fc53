"""Pixel level: a slice is to be restored from a noisy copy of itself (denoising, section 3.2 and Eq. 1)."""

from __future__ import annotations

from statistics import fmean

from torch import Tensor

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.evaluation.representations import LARGEST_PSNR, RestorationScores, restoration_scores
from samora_pipeline.models.pretraining_heads import DenoisingDecoder, tap_blocks
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.objectives.features import mean_squared_error, soft_dice
from samora_pipeline.slices.augmentation import allowed_flips
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.noise import make_noise, rician_channels
from samora_pipeline.slices.views import draw_views
from trainers.loop.loading import Batch
from trainers.loop.pretraining import Examination
from trainers.settings import DenoisingSettings
from trainers.stages.masked import view_of
from trainers.stages.stage import full_precision


class PixelObjective:
    """Denoising from the tokens of four depths."""

    def __init__(
        self,
        source: UnlabelledSource,
        plans: Plans,
        settings: DenoisingSettings,
        network: SegmentationNetwork,
        seed: int,
    ) -> None:
        encoder = network.image_encoder
        self._taps = tap_blocks(encoder.shapes)
        shapes = [encoder.shapes[tap - 1] for tap in self._taps]
        self.head = DenoisingDecoder(shapes, network.input_size, len(plans.channel_names))
        self._source, self._seed, self._settings = source, seed, settings
        self._noise = make_noise(settings.noise)
        self._flips, self._rician = allowed_flips(plans), rician_channels(plans)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Slices, the parameters of one view of each, and of its noise."""
        keys = self._source.keys(indices)
        return {
            "images": self._source.images(indices),
            "view": draw_views(keys, self._settings.views, self._flips, seed=self._seed, epoch=epoch),
            "noise": self._noise.draw(keys, seed=self._seed, epoch=epoch),
        }

    def loss(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error against the clean view; ``noisy`` is the error of leaving everything as it is."""
        clean, noisy, tokens = self._restore(network, batch)
        return self._error(self.head(tokens), clean), {"noisy": self._error(noisy, clean)}

    def examine(self, network: SegmentationNetwork, batch: Batch) -> Examination:
        """Whether the restored slices are nearer to the clean ones than the noisy ones are (PSNR in dB, SSIM).

        A view of nothing but air is not changed by replacing pixels with their neighbours; there is nothing to
        restore in it, and it is not scored.
        """
        clean, noisy, tokens = self._restore(network, batch)
        restored = self.head(tokens).float()
        before, after = (restoration_scores(images, clean) for images in (noisy, restored))
        measures = {"noisy": float(self._error(noisy, clean)), **_gains(before, after)}
        shown = {"original": clean, "noisy": noisy, "restored": restored, "error": (restored - clean).abs()}
        return Examination(
            self._error(restored, clean),
            measures,
            tokens[-1].mean(dim=(1, 2)),
            {name: images[:, 0].clamp(0, 1) for name, images in shown.items()},
        )

    def _restore(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The clean and the noisy view, and the tokens that the decoder restores the latter from."""
        clean = view_of(batch)
        with full_precision(clean):
            noisy = self._noise.apply(clean, batch["noise"], self._rician)
        return clean, noisy, network.image_encoder.forward_tokens(network.to_rgb(noisy), self._taps)

    def _error(self, images: Tensor, clean: Tensor) -> Tensor:
        error = mean_squared_error(images, clean)
        if not self._settings.dice:
            return error
        return self._settings.dice * soft_dice(images, clean) + (1 - self._settings.dice) * error


def _gains(before: RestorationScores, after: RestorationScores) -> dict[str, float]:
    """Mean scores of the restored slices, and what they gain over the noisy ones; empty where no slice was changed."""
    changed = [number for number, psnr in enumerate(before.psnr) if psnr < LARGEST_PSNR]
    if not changed:
        return {}
    measures = {}
    for name, noisy, restored in (("psnr", before.psnr, after.psnr), ("ssim", before.ssim, after.ssim)):
        measures[name] = fmean(restored[number] for number in changed)
        measures[f"{name}_gain"] = measures[name] - fmean(noisy[number] for number in changed)
    return measures
