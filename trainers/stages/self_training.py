"""Self-training: a student learns from the labels and from what finished runs say about the slices without labels.

The mean probabilities of the teachers are soft labels of the pool (the ensemble's knowledge in one network: Hinton et
al., arXiv 1503.02531; the extra noise for the student: arXiv 1911.04252). Teachers may be of any kind, as they predict
whole cases by the ``Predictor``: slices may teach volumes, and a slow encoder a fast network.

Shapes: B batch (this rank's part), C channels, N input size in pixels, K output maps, M maps that are stored: K
regions, or K - 1 classes without the background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline import distributed
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, RunConfig, TaughtBy
from samora_pipeline.errors import DataError
from samora_pipeline.files import atomic_path, digest_file, digest_json
from samora_pipeline.imaging.resampling import InPlaneMap
from samora_pipeline.models.samora import Network
from samora_pipeline.objectives.soft_labels import soft_segmentation_loss
from samora_pipeline.run_log import Progress
from samora_pipeline.slices.augmentation import apply_geometry, draw_augmentation
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.intensities import apply_intensities, draw_intensities
from samora_pipeline.slices.store import StoredSlices
from samora_pipeline.slices.views import draw_uniform
from trainers.finetune_settings import FinetuneSettings
from trainers.loop.loading import Batch
from trainers.self_training_settings import SelfTrainingSettings
from trainers.stages.labelled import LabelledTask
from trainers.stages.stage import RunContext, full_precision

if TYPE_CHECKING:
    from samora_pipeline.inference.predictor import Predictor

SOFT_LABELS_FOLDER = "soft_labels"
_LEVELS = 255
_KEY_LENGTH = 12


class SelfTrainingTask(LabelledTask):
    """The labelled task, and beside each labelled slice one of the pool with the soft labels of the teachers."""

    def __init__(
        self,
        run: RunConfig,
        settings: FinetuneSettings,
        network: Network,
        slices: Path,
        seed: int,
        unlabelled: UnlabelledSource,
        soft_labels: SoftLabels,
    ) -> None:
        super().__init__(run, settings, network, slices, seed)
        self._own = settings.self_training or SelfTrainingSettings()
        self._unlabelled, self._soft_labels = unlabelled, soft_labels

    def load(self, indices: list[int], epoch: int) -> Batch:
        """What the labelled task has, and as many slices of the pool (B,C,N,N) with soft labels (B,M,N,N)."""
        keys, drawn = self.source.keys(indices), {"seed": self._seed, "epoch": epoch}
        place = draw_uniform(keys, 1, "taught", **drawn)[:, 0].double() * len(self._unlabelled)
        others = place.long().clamp(max=len(self._unlabelled) - 1).tolist()
        names = self._unlabelled.keys(others)
        pairs = [f"{own} {other}" for own, other in zip(keys, names, strict=True)]
        return super().load(indices, epoch) | {
            "others": self._unlabelled.images(others),
            "soft": self._soft_labels.read(names),
            "moves": draw_augmentation(pairs, self._input_size, self._settings.augmentation, self._flips, **drawn),
            "strong": draw_intensities(pairs, self._own.strong, purpose="strong", **drawn),
        }

    def loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the labelled slices plus ``weight`` times that of the others, from one pass of the network.

        Metrics are those of the labelled slices, and the loss of the others.
        """
        with full_precision(batch["images"]):
            moved, targets = apply_geometry(batch["images"], batch["targets"], batch["drawn"])
            images = apply_intensities(moved, batch["drawn"].intensities)
            channels = images.shape[1]
            both, _ = apply_geometry(torch.cat((batch["others"], batch["soft"]), 1), None, batch["moves"])
            others = apply_intensities(both[:, :channels], batch["strong"])
            truth = self._complete(both[:, channels:])
        ignored = torch.full_like(targets, -1)
        stages = self._network.stages(torch.cat((images, others)), torch.cat((targets, ignored)))
        count = len(images)
        loss, metrics = self.loss_of_stages(tuple(logits[:count] for logits in stages), targets, epoch)
        soft = torch.stack([self._soft(logits[count:], truth) for logits in stages]).mean()
        return loss + self._own.weight * soft, {**metrics, "taught_loss": soft.detach()}

    def _complete(self, stored: Tensor) -> Tensor:
        """Soft labels (B,K,N,N) from the stored maps: what no class has is background."""
        if self._regions is not None:
            return stored
        return torch.cat((1 - stored.sum(1, keepdim=True).clamp(max=1), stored), 1)

    def _soft(self, logits: Tensor, truth: Tensor) -> Tensor:
        if self._settings.loss_at == "input":
            logits = functional.interpolate(logits, truth.shape[-2:], mode="bilinear", align_corners=False)
        fitting = functional.interpolate(truth, logits.shape[-2:], mode="area")
        return soft_segmentation_loss(
            logits,
            fitting,
            cross_entropy=self._settings.cross_entropy,
            dice=self._settings.dice,
            exclusive=self._regions is None,
        ).loss


@dataclass(frozen=True)
class SoftLabels:
    """The teachers' probabilities of the pool in 8 bits, one file (slices,M,N,N) for each case; a draft has none.

    ``folder`` is where they lie, None in a draft; ``shape`` is (M,N,N).
    """

    folder: Path | None
    shape: tuple[int, int, int]

    def read(self, names: Sequence[str]) -> Tensor:
        """The maps (B,M,N,N) float32 of slices, by name (dataset/case/index)."""
        if self.folder is None:
            return torch.zeros(len(names), *self.shape)
        rows = []
        for name in names:
            case, _, index = name.rpartition("/")
            rows.append(_stored(self.folder / _file_of(case))[int(index)])
        return torch.from_numpy(np.stack(rows).astype(np.float32) / _LEVELS)


def make_soft_labels(run: RunConfig, context: RunContext) -> SoftLabels:
    """Have the teachers predict every case of the pool; what an earlier session has made is kept. The main rank works.

    Raises:
        DataError: ``E-SELF-02`` a teacher is not the one that the run was started with, or can no longer be read.
    """
    maps = run.labels.num_outputs - (0 if run.labels.regions else 1)
    shape = (maps, run.model.input_size, run.model.input_size)
    if context.draft or context.pool is None:
        return SoftLabels(None, shape)
    teachers = {record: _folder_of(record, context) for record in run.taught_by}
    # A start that failed may have left those of other teachers.
    key = digest_json([[record.checkpoint for record in teachers], run.model.input_size])
    folder = context.folder / SOFT_LABELS_FOLDER / key[:_KEY_LENGTH]
    missing = [one for one in _cases(context) if not (folder / _file_of(f"{one[0]}/{one[1]}")).is_file()]
    distributed.barrier()
    if missing and distributed.is_main():
        predictors = [_teacher(teacher, context) for teacher in teachers.values()]
        with Progress("soft labels", len(missing), unit="case") as progress:
            for dataset, case, slices, plans in missing:
                stored = StoredSlices.open(slices, case)
                maps_of = _mean(
                    predictors, stored, InPlaneMap.for_case(stored.record, plans, run.model.input_size), run
                )
                with atomic_path(folder / _file_of(f"{dataset}/{case}")) as temporary:
                    np.save(temporary, maps_of, allow_pickle=False)
                progress.advance(case)
    distributed.barrier()
    return SoftLabels(folder, shape)


def _cases(context: RunContext) -> Iterator[tuple[str, str, Path, Any]]:
    """Dataset, case, folder of slices and plan of every case of the pool."""
    for member in context.pool.members if context.pool else ():
        for case in member.cases:
            yield member.dataset.name, case, member.dataset.slices, member.plans


def _folder_of(record: TaughtBy, context: RunContext) -> Path:
    """The folder of a teacher, whose checkpoint is the one that the run was started with (``E-SELF-02``)."""
    folder = context.pretraining.parent.parent / record.run
    found = digest_file(folder / FINAL_CHECKPOINT) if (folder / FINAL_CHECKPOINT).is_file() else "no checkpoint"
    if found != record.checkpoint:
        raise DataError("E-SELF-02", run=record.run, found=found[:12], digest=record.checkpoint[:12])
    return folder


def _teacher(folder: Path, context: RunContext) -> Predictor:
    # Only here, because it brings in readers of volumes, which nothing else of a training needs.
    from samora_pipeline.inference.predictor import Predictor

    return Predictor.load(
        folder.parent,
        folds=[folder.name.removeprefix("fold_")],
        weights_folder=context.weights,
        device=context.device,
        postprocessing=False,
        allow_code=True,
    )


def _mean(
    teachers: Sequence[Predictor], stored: StoredSlices, way: InPlaneMap, run: RunConfig
) -> npt.NDArray[np.uint8]:
    """The mean probabilities of a case's slices (slices,M,N,N) at the student's size, in 8 bits."""
    images = np.stack([stored.image(index) for index in range(len(stored))])
    first = 0 if run.labels.regions else 1
    total: npt.NDArray[np.float32] | None = None
    for teacher in teachers:
        chunks = teacher.predict_scores(images, stored.record.geometry.spacing)
        own = np.concatenate([way.image(chunk.probabilities[:, first:].float().cpu().numpy()) for chunk in chunks])
        total = own if total is None else total + own
    if total is None:
        raise ValueError("soft labels need at least one teacher")
    levels: npt.NDArray[np.uint8] = np.rint((total / len(teachers)).clip(0, 1) * _LEVELS).astype(np.uint8)
    return levels


def _file_of(case: str) -> str:
    return f"{case.replace('/', '__')}.npy"


@lru_cache(maxsize=512)
def _stored(path: Path) -> npt.NDArray[np.uint8]:
    array: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array
