"""Stage 2 of networks on whole volumes: the labelled task with another source, and augmentation along all axes.

Shapes: B batch, C channels, D planes, H W rows and columns of the network's grid, K output maps.
"""

from pathlib import Path
from typing import ClassVar

from torch import Tensor

from samora_pipeline.contracts.random_steps import VolumeAugmentationSettings
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.models.samora import Network
from samora_pipeline.slices.volume_augmentation import apply_volume_augmentation, draw_volume_augmentation
from samora_pipeline.slices.volumes import VolumeSource
from trainers.loop.loading import Batch
from trainers.settings import StageSettings
from trainers.stages.finetune import Finetune
from trainers.stages.labelled import LabelledTask
from trainers.stages.stage import RunContext, full_precision
from trainers.volume_settings import VolumeFinetuneSettings


class VolumeTask(LabelledTask):
    """Labelled volumes, augmented, and the loss of slices over all of their planes."""

    def read(self, run: RunConfig, slices: Path) -> VolumeSource:
        """See ``LabelledTask.read``.

        Raises:
            ValueError: the run's network takes slices.
        """
        if run.model.volume is None:
            raise ValueError(f"{run.model.backbone} takes slices, not volumes")
        self._volumes = VolumeSource(slices, run.selection, run.plans, run.model.volume, run.labels)
        return self._volumes

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Images (B,C,D,H,W), targets (B,D,H,W) and the parameters of their augmentation."""
        volumes, settings = self._volumes, self._settings.augmentation
        if not isinstance(settings, VolumeAugmentationSettings):
            raise TypeError("volumes need VolumeFinetuneSettings")
        drawn = draw_volume_augmentation(
            volumes.keys(indices),
            volumes.extents(indices),
            settings,
            mirror=self._plans.mirror.value,
            seed=self._seed,
            epoch=epoch,
        )
        return {"images": volumes.images(indices), "targets": volumes.targets(indices), "drawn": drawn}

    def loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """See ``LabelledTask.loss``."""
        with full_precision(batch["images"]):
            images, targets = apply_volume_augmentation(batch["images"], batch["targets"], batch["drawn"])
        return self.loss_of(images, targets, epoch)

    def loss_of(self, images: Tensor, targets: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images (B,C,D,H,W) and targets (B,D,H,W): that of slices (B,D x H,W), which knows no place."""
        stages = self._network.stages(images, targets)
        return self.loss_of_stages(tuple(logits.flatten(2, 3) for logits in stages), targets.flatten(1, 2), epoch)


class FinetuneVolumes(Finetune):
    """``Finetune`` with whole volumes."""

    Settings: ClassVar[type[StageSettings]] = VolumeFinetuneSettings

    def task(self, run: RunConfig, context: RunContext, network: Network) -> LabelledTask:
        """See ``Finetune.task``."""
        return VolumeTask(run, self.settings, network, context.dataset.slices, self.seed(run))
