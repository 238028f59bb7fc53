"""Image level by contrast: two views of a slice are to be alike, views of other slices are not (NT-Xent)."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Generic

import torch
from torch import Tensor, nn
from torch.nn import functional

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.distributed import sum_over_ranks
from samora_pipeline.evaluation.representations import alignment, effective_rank, spread, uniformity
from samora_pipeline.models.pretraining_heads import ContrastiveHead
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.objectives.contrastive import nt_xent
from samora_pipeline.slices.augmentation import allowed_flips
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.views import apply_views, draw_views
from trainers.loop.loading import Batch
from trainers.loop.pretraining import Examination, Network
from trainers.settings import ContrastiveSettings, ImageTeacherSettings
from trainers.stages.stage import full_precision


class ContrastiveObjective(Generic[Network]):
    """NT-Xent on embeddings of two views of each slice; what embeds them is the subclass's affair."""

    head: nn.Module

    def __init__(
        self, source: UnlabelledSource, plans: Plans, settings: ContrastiveSettings | ImageTeacherSettings, seed: int
    ) -> None:
        self._source, self._settings, self._seed = source, settings, seed
        self._flips = allowed_flips(plans)

    @abstractmethod
    def embed(self, network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B,C,N,N) to features (B,D) and embeddings (B,E); the loss normalises the latter."""

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Slices and the parameters of both views."""
        keys = self._source.keys(indices)
        first, second = (
            draw_views(keys, self._settings.views, self._flips, seed=self._seed, epoch=epoch, view=view)
            for view in (0, 1)
        )
        return {"images": self._source.images(indices), "first": first, "second": second}

    def loss(self, network: Network, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """NT-Xent over the global batch; ``chance`` is what it is before anything is learned."""
        _, first, second = self._views(network, batch)
        terms = nt_xent(first, second, temperature=self._settings.temperature)
        count = sum_over_ranks(terms.loss.new_tensor(float(len(first))))
        return terms.loss, {"accuracy": terms.accuracy, "chance": (2 * count - 1).log()}

    def examine(self, network: Network, batch: Batch) -> Examination:
        """Whether partners find each other, and how the embeddings lie on the sphere."""
        features, first, second = self._views(network, batch)
        terms = nt_xent(first, second, temperature=self._settings.temperature)
        unit = functional.normalize(torch.cat((first, second)).float(), dim=1)
        count = len(first)
        measures = {
            "accuracy": float(terms.accuracy),
            "chance_accuracy": 1 / max(1, 2 * count - 1),
            "loss_below_chance": math.log(max(1, 2 * count - 1)) - float(terms.loss),
            "alignment": alignment(unit[:count], unit[count:]),
            "uniformity": uniformity(unit),
            "embedding_spread": spread(unit),
            "embedding_rank": effective_rank(unit),
        }
        return Examination(terms.loss, measures, features[:count])

    def _views(self, network: Network, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        images = batch["images"]
        with full_precision(images):
            views = torch.cat([apply_views(images, batch[name]) for name in ("first", "second")])
        features, embeddings = self.embed(network, views)
        first, second = embeddings.chunk(2)
        return features, first, second


class ImageObjective(ContrastiveObjective[SegmentationNetwork]):
    """Contrastive learning on the mean of the last block's tokens."""

    def __init__(
        self, source: UnlabelledSource, plans: Plans, settings: ContrastiveSettings, width: int, seed: int
    ) -> None:
        super().__init__(source, plans, settings, seed)
        self.head = ContrastiveHead(width)

    def embed(self, network: SegmentationNetwork, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ContrastiveObjective.embed``."""
        (tokens,) = network.image_encoder.forward_tokens(network.to_rgb(images), (network.image_encoder.depth,))
        return tokens.mean(dim=(1, 2)), self.head(tokens)
