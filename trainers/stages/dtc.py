"""Dual-task consistency (DTC, Luo et al., AAAI 2021, arXiv 2009.04448).

A second head predicts signed distances to the boundary of every class. On all slices both heads have to agree. Written
from the behaviour of the public code (github.com/HiLab-git/DTC), which is for volumes and one class.

Shapes: B slices, K output maps, N input size in pixels.
"""

from pathlib import Path

from torch import Tensor, nn

from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.models.decoder_maps import decoder_of, stages_and_maps
from samora_pipeline.models.samora import Network
from samora_pipeline.objectives.segmentation import IGNORED
from samora_pipeline.objectives.signed_distance import signed_distances
from samora_pipeline.reproducibility import seed_everything
from samora_pipeline.slices.datasets import UnlabelledSource
from trainers.finetune_settings import FinetuneSettings
from trainers.semi_supervised_settings import DTCSettings
from trainers.stages.semi_supervised import Mixed, SemiSupervisedTask, batch_mean


class DTCTask(SemiSupervisedTask[DTCSettings]):
    """The head of distances, one map for each class but the background, is trained with the network and thrown away."""

    head: nn.Conv2d

    def __init__(
        self,
        run: RunConfig,
        settings: FinetuneSettings,
        network: Network,
        slices: Path,
        seed: int,
        unlabelled: UnlabelledSource,
        own: DTCSettings,
    ) -> None:
        super().__init__(run, settings, network, slices, seed, unlabelled, own)
        self._classes = run.model.num_outputs
        seed_everything(seed, "head")
        self.head = nn.Conv2d(decoder_of(network).head.in_channels, self._classes - 1, 1)

    def losses(self, mixed: Mixed, share: float, epoch: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """See ``SemiSupervisedTask.losses``; nothing is detached."""
        count, own = mixed.labelled, self._own
        stages, maps = stages_and_maps(self._network, *mixed)
        targets = mixed.targets[:count]
        loss, metrics = self.loss_of_stages(tuple(one[:count] for one in stages), targets, epoch)
        distances = self.head(maps.last).tanh().float()
        errors = (distances[:count] - signed_distances(targets, self._classes)).square()
        known = (targets != IGNORED)[:, None].expand_as(errors)
        distance = batch_mean(errors, known)
        agreement = (-own.steepness * distances).sigmoid() - self.probabilities(stages[-1])[:, 1:]
        metrics |= {"distance_loss": distance.detach()}
        return loss + own.distance * distance, metrics, batch_mean(agreement.square())
