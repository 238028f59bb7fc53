"""What published ways to learn from slices without labels share: a batch of both kinds, one pass, a weight that rises.

Shapes: B labelled slices (this rank's part) and as many without labels, C channels, N input size, K output maps.
"""

from abc import abstractmethod
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.distributed import sum_over_ranks
from samora_pipeline.errors import UsageError
from samora_pipeline.models.samora import Network
from samora_pipeline.objectives.segmentation import IGNORED
from samora_pipeline.slices.augmentation import apply_augmentation, draw_augmentation
from samora_pipeline.slices.datasets import UnlabelledSource
from trainers.finetune_settings import FinetuneSettings
from trainers.loop.loading import Batch
from trainers.semi_supervised_settings import SemiSupervisedSettings
from trainers.stages.labelled import LabelledTask
from trainers.stages.partners import draw_partners
from trainers.stages.stage import full_precision

S = TypeVar("S", bound=SemiSupervisedSettings)


class Mixed(NamedTuple):
    """Slices (2B,C,N,N), labelled ones first, and targets (2B,N,N), those of the others ignored."""

    images: Tensor
    targets: Tensor

    @property
    def labelled(self) -> int:
        """B."""
        return len(self.images) // 2


class SemiSupervisedTask(LabelledTask, Generic[S]):
    """The labelled task, and ``unlabelled_loss`` on as many slices without labels, weighed by a share of the epochs."""

    def __init__(
        self,
        run: RunConfig,
        settings: FinetuneSettings,
        network: Network,
        slices: Path,
        seed: int,
        unlabelled: UnlabelledSource,
        own: S,
    ) -> None:
        super().__init__(run, settings, network, slices, seed)
        if self._regions is not None:
            raise UsageError("E-SET-07", found="labels with regions")
        self._unlabelled, self._own = unlabelled, own

    def load(self, indices: list[int], epoch: int) -> Batch:
        """What the labelled task has, partners (B,C,N,N) and the parameters of their augmentation."""
        drawn = {"seed": self._seed, "epoch": epoch}
        partners, pairs = draw_partners(self.source.keys(indices), self._unlabelled, "partner", **drawn)
        return super().load(indices, epoch) | {
            "partners": self._unlabelled.images(partners),
            "moves": draw_augmentation(pairs, self._input_size, self._settings.augmentation, self._flips, **drawn),
        }

    def loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the labelled slices plus the weight times that of the method.

        Metrics are those of the labelled slices, and the loss of the method.
        """
        with full_precision(batch["images"]):
            images, targets = apply_augmentation(batch["images"], batch["targets"], batch["drawn"])
            ignored = torch.full_like(targets, IGNORED)
            others, ignored = apply_augmentation(batch["partners"], ignored, batch["moves"])
        mixed = Mixed(torch.cat((images, others)), torch.cat((targets, torch.full_like(ignored, IGNORED))))
        share = epoch / self._settings.epochs
        labelled, metrics, unlabelled = self.losses(mixed, share, epoch)
        metrics |= {"unlabelled_loss": unlabelled.detach()}
        return labelled + self._own.weight_at(share) * unlabelled, metrics

    @abstractmethod
    def losses(self, mixed: Mixed, share: float, epoch: int) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """What is learned from labels with its metrics, and what is learned without, when a share of epochs is over."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (B,K,h,w) as probabilities (B,K,N,N)."""
        size = (self._input_size, self._input_size)
        return functional.interpolate(logits.float(), size, mode="bilinear", align_corners=False).softmax(1)


def batch_mean(values: Tensor, where: Tensor | None = None) -> Tensor:
    """The mean of values over the global batch, over those ``where`` (bool, of their shape) is true."""
    chosen = torch.ones_like(values) if where is None else where.to(values.dtype)
    sums = sum_over_ranks(torch.stack(((values * chosen).sum(), chosen.sum())))
    return sums[0] / sums[1].clamp(min=1)
