"""Masked modelling, as the bootstrap, the patch expert and MAE do it: slices, one view of each, and hidden patches."""

from __future__ import annotations

from abc import abstractmethod
from typing import Generic, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.objectives.features import images_from, masked_reconstruction
from samora_pipeline.slices.augmentation import allowed_flips
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.views import apply_views, draw_token_masks, draw_views
from trainers.loop.loading import Batch
from trainers.loop.pretraining import Examination, Network
from trainers.settings import MaskingSettings
from trainers.stages.stage import full_precision


class Prediction(NamedTuple):
    """``patches`` (B,g,g,P*P*C) for ``images`` (B,C,N,N), and one feature vector (B,D) per slice."""

    patches: Tensor
    images: Tensor
    features: Tensor


class MaskedObjective(Generic[Network]):
    """Hidden patches are reconstructed from the visible ones; what sees them and how is the subclass's affair.

    ``grid`` is the side of the grid of hidden patches.
    """

    head: nn.Module

    def __init__(self, source: UnlabelledSource, plans: Plans, grid: int, settings: MaskingSettings, seed: int) -> None:
        self._source, self._grid, self._settings, self._seed = source, grid, settings, seed
        self._flips = allowed_flips(plans)

    @abstractmethod
    def predict(self, network: Network, images: Tensor, mask: Tensor) -> Prediction:
        """The pixels of all patches of images (B,C,N,N) whose patches ``mask`` (B,g,g) are hidden."""

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Images (B,C,N,N), the parameters of their views, and the mask (B,g,g), true where a patch is hidden.

        g is the side of the last block's grid: patches have 16 pixels a side for SAM and 32 for SAM 2, the mask
        units of Hiera (arXiv 2306.00989).
        """
        keys = self._source.keys(indices)
        return {
            "images": self._source.images(indices),
            "view": draw_views(keys, self._settings.views, self._flips, seed=self._seed, epoch=epoch),
            "mask": draw_token_masks(keys, self._grid, self._settings.masked_share, seed=self._seed, epoch=epoch),
        }

    def loss(self, network: Network, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over hidden patches."""
        prediction = self.predict(network, view_of(batch), batch["mask"])
        return self._error(prediction, batch["mask"]), {}

    def examine(self, network: Network, batch: Batch) -> Examination:
        """The loss, and where patches are normalised the share that is ``explained`` of what their mean leaves.

        Its mean alone predicts a patch of air exactly, so a pool with much air has a small loss from the start.
        In the picture of the output visible patches are the input's. Where patches are normalised, the output's have
        their brightness and contrast from the original, and only the detail from the network.
        """
        images, mask = view_of(batch), batch["mask"]
        prediction = self.predict(network, images, mask)
        loss = self._error(prediction, mask)
        hidden = functional.interpolate(mask[:, None].float(), images.shape[-2:])
        drawn = images_from(prediction.patches, prediction.images, normalised=self._settings.normalised)
        original, output = (self._shown(value) for value in (prediction.images, drawn))
        hidden = functional.interpolate(hidden, original.shape[-2:])
        output = torch.where(hidden > 0, output, original)
        columns = {
            "original": original,
            "seen": original * (1 - hidden) + 0.5 * hidden,
            "reconstructed": output,
            "error": (output - original).abs(),
        }
        measures = {}
        if self._settings.normalised:
            mean_alone = self._error(prediction._replace(patches=torch.zeros_like(prediction.patches)), mask)
            measures["explained"] = 1 - float(loss / mean_alone.clamp(min=1e-12))
        return Examination(loss, measures, prediction.features, {name: value[:, 0] for name, value in columns.items()})

    def _shown(self, images: Tensor) -> Tensor:
        """Images as the network compares them to (B,1,N,N) in [0,1]."""
        return images.mean(dim=1, keepdim=True).clamp(0, 1)

    def _error(self, prediction: Prediction, mask: Tensor) -> Tensor:
        return masked_reconstruction(
            prediction.patches,
            prediction.images,
            mask,
            normalised=self._settings.normalised,
            skip_flat=self._settings.skip_flat,
        )


def view_of(batch: Batch) -> Tensor:
    """The batch's images under the views that were drawn for them, in full precision."""
    with full_precision(batch["images"]):
        return apply_views(batch["images"], batch["view"])
