"""Image level, recipe ``scratch``: two views of a slice are to be alike, views of other slices are not (NT-Xent)."""

from __future__ import annotations

import torch
from torch import Tensor

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.distributed import sum_over_ranks
from samora_pipeline.models.projector import ContrastiveHead
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.objectives.contrastive import nt_xent
from samora_pipeline.slices.augmentation import allowed_flips
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.views import CONTRASTIVE_VIEWS, apply_views, draw_views
from trainers.config import ImageSettings
from trainers.loading import Batch
from trainers.stages.stage import full_precision


class ImageObjective:
    """Contrastive learning on the mean of the last block's tokens."""

    def __init__(self, source: UnlabelledSource, plans: Plans, settings: ImageSettings, width: int, seed: int) -> None:
        self.head = ContrastiveHead(width)
        self._source, self._settings, self._seed = source, settings, seed
        self._flips = allowed_flips(plans)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Slices and the parameters of both views."""
        keys = self._source.keys(indices)
        first, second = (
            draw_views(keys, CONTRASTIVE_VIEWS, self._flips, seed=self._seed, epoch=epoch, view=view) for view in (0, 1)
        )
        return {"images": self._source.images(indices), "first": first, "second": second}

    def loss(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent over the global batch; ``chance`` is what it is before anything is learned."""
        images = batch["images"]
        with full_precision(images):
            views = torch.cat([apply_views(images, batch[name]) for name in ("first", "second")])
        (tokens,) = network.image_encoder.forward_tokens(network.to_rgb(views), (network.image_encoder.depth,))
        first, second = self.head(tokens).chunk(2)
        terms = nt_xent(first, second, temperature=self._settings.temperature)
        count = sum_over_ranks(terms.loss.new_tensor(float(len(images))))
        return terms.loss, {"accuracy": terms.accuracy, "chance": (2 * count - 1).log()}
