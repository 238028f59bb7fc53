"""Image and patch level from a teacher: the expert learns its features from the same view of the same slice (Eq. 1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.errors import UsageError
from samora_pipeline.evaluation.representations import linear_cka
from samora_pipeline.files import digest_json
from samora_pipeline.models.backbones.backbone import Encoder
from samora_pipeline.models.pretraining_heads import DistillationHead
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.models.teachers.mae import MaeTeacher, visible_tokens
from samora_pipeline.models.teachers.teacher import FeatureShape, Teacher
from samora_pipeline.objectives.features import (
    ChannelStatistics,
    StatisticsFit,
    distillation,
    on_grid,
    scaled_target,
)
from samora_pipeline.run_log import logger
from samora_pipeline.slices.augmentation import allowed_flips
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.views import draw_token_masks, draw_views, visible_count
from trainers.loop.loading import Batch, on_device
from trainers.loop.pretraining import Examination
from trainers.settings import DistillationSettings
from trainers.stages.masked import view_of
from trainers.stages.targets import TargetStore

STATISTICS_SLICES = 4096
_FIT_EPOCH = -2
"""epochs count from 0 and panels have -1, so these views are drawn for nothing else"""
_BATCH = 32


@dataclass(frozen=True)
class DistillationTarget:
    """What is learned from whom. ``identity`` stands for the teacher and the pool where targets are kept.

    ``targets`` is the folder in which they are kept.
    """

    teacher: Teacher
    settings: DistillationSettings
    identity: str
    targets: Path


class DistilledHead(nn.Module):
    """The student's projector and, where patches are hidden from it, the token that stands for them."""

    def __init__(self, encoder: Encoder, shape: FeatureShape, *, masked: bool) -> None:
        super().__init__()
        self.projector = DistillationHead(encoder.shapes[-1].width, shape.width, shape.grid)
        self.mask_token: nn.Parameter | None = None
        if masked:
            self.mask_token = nn.Parameter(torch.empty(encoder.embed_dim))
            nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """See ``DistillationHead``."""
        projected: Tensor = self.projector(tokens)
        return projected


class DistillationObjective:
    """A frozen teacher in eval mode, and the student's head. Call ``prepare`` before the first loss.

    Raises:
        UsageError: ``E-DISTIL-01`` hidden patches with a teacher that has none, or with grids that differ.
    """

    def __init__(
        self,
        source: UnlabelledSource,
        plans: Plans,
        target: DistillationTarget,
        network: SegmentationNetwork,
        level: str,
        seed: int,
    ) -> None:
        settings, teacher, encoder = target.settings, target.teacher, network.image_encoder
        self._source, self._target, self._seed = source, target, seed
        self._settings, self._teacher = settings, teacher
        self._feature = settings.feature or teacher.default_feature
        self._shape = teacher.shapes[self._feature]
        self._side, self._pixels = encoder.shapes[-1].side, network.input_size
        self._flips = allowed_flips(plans)
        self._visible = visible_count(self._side, settings.masked_share)
        if settings.masked_share and not (isinstance(teacher, MaeTeacher) and self._shape.grid == self._side):
            raise _cannot_hide(level, self._shape.grid, self._side)
        self.head = DistilledHead(encoder, self._shape, masked=settings.masked_share > 0)
        self._statistics: ChannelStatistics | None = None
        self._store: TargetStore | None = None

    def prepare(self, device: torch.device) -> None:
        """Move the teacher, fit the scale of its channels, and fill the store of targets; every rank calls this."""
        self._teacher.to(device)
        if self._settings.scale == "channel":
            self._statistics = self._fit(device)
        if self._settings.view_count is not None:
            self._store = self._targets()
            logger.info("targets: %.2f GiB in %s", self._store.bytes / 2**30, self._store.folder)
            self._store.fill(lambda indices, view: self._features(self._drawn(indices, view), device), _BATCH)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Slices, the parameters of one view of each, hidden patches, and the target where it is kept on disk."""
        if self._store is None or epoch < 0:
            return self._drawn(indices, epoch)
        view = epoch % self._store.views
        return {**self._drawn(indices, view), "target": self._store.read(indices, view)}

    def loss(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error to the teacher's scaled features, and the cosine with them."""
        prediction, target, _ = self._compare(network, batch)
        terms = distillation(prediction, target)
        return terms.loss, {"cosine": terms.cosine}

    def examine(self, network: SegmentationNetwork, batch: Batch) -> Examination:
        """The share of the target's variance that is explained, and how alike student and teacher are (CKA)."""
        if "target" not in batch:
            # The same panel is examined with LoRA on and off; the teacher need not look twice.
            batch["target"] = self._teach(view_of(batch), batch.get("mask"))
        prediction, target, tokens = self._compare(network, batch)
        terms = distillation(prediction, target)
        # Around the mean of each channel, which the projector's offset alone can give.
        variance = (target - target.flatten(0, -2).mean(dim=0)).square().mean()
        measures = {
            "cosine": float(terms.cosine),
            "explained": 1 - float(terms.loss / variance.clamp(min=1e-12)),
            "teacher_similarity": linear_cka(tokens.mean(dim=(1, 2)), _pooled(target)),
        }
        columns = {}
        if target.ndim == 4:
            error = (prediction - target).square().mean(dim=-1)
            first, second = _first_component(target, prediction)
            columns = {
                "original": view_of(batch).mean(dim=1),
                "teacher": first,
                "student": second,
                "error": error / (4 * variance),
            }
        shown = {name: value.detach().float().clamp(0, 1) for name, value in columns.items()}
        return Examination(terms.loss, measures, tokens.mean(dim=(1, 2)), shown)

    def _compare(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction and target of equal shapes, and the student's tokens (B,m,m,D)."""
        images, mask = view_of(batch), batch.get("mask")
        features = batch["target"].float() if "target" in batch else self._teach(images, mask)
        target = scaled_target(features, self._settings.scale, self._statistics)
        encoder = network.image_encoder
        hidden = {} if mask is None else {"token_mask": mask, "mask_token": self.head.mask_token}
        (tokens,) = encoder.forward_tokens(network.to_rgb(images), (encoder.depth,), **hidden)
        prediction = self.head(tokens)
        if mask is not None:
            prediction = visible_tokens(prediction, mask, self._visible)
        return prediction, target, tokens

    @torch.no_grad()
    def _teach(self, images: Tensor, mask: Tensor | None) -> Tensor:
        """The teacher's features, on the student's grid where that is coarser."""
        if mask is not None and isinstance(self._teacher, MaeTeacher):
            return self._teacher.visible_features(images, mask, self._visible)
        features = self._teacher.features(images, self._feature)
        return on_grid(features.float(), self._side) if self._shape.grid else features

    def _drawn(self, indices: list[int], epoch: int) -> Batch:
        keys = self._source.keys(indices)
        batch: Batch = {
            "images": self._source.images(indices),
            "view": draw_views(keys, self._settings.views, self._flips, seed=self._seed, epoch=epoch),
        }
        share = self._settings.masked_share
        if share:
            batch["mask"] = draw_token_masks(keys, self._side, share, seed=self._seed, epoch=epoch)
        return batch

    def _features(self, batch: Batch, device: torch.device) -> Tensor:
        moved = on_device(batch, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            return self._teach(view_of(moved), moved.get("mask"))

    def _fit(self, device: torch.device) -> ChannelStatistics:
        slices = len(self._source)
        count = min(slices, STATISTICS_SLICES)
        own = distributed.own_share([slices * number // count for number in range(count)])
        fit = StatisticsFit(self._shape.width)
        for start in range(0, len(own), _BATCH):
            fit.add(self._features(self._drawn(own[start : start + _BATCH], _FIT_EPOCH), device))
        return fit.result(device)

    def _targets(self) -> TargetStore:
        settings, views = self._settings, self._settings.view_count or 1
        key = digest_json(
            {
                "teacher": self._target.identity,
                "feature": self._feature,
                "pixels": [self._pixels, self._teacher.input_size],
                "side": self._side if self._shape.grid else 0,
                "hidden": settings.masked_share,
                "slices": len(self._source),
                "views": to_plain(settings.views),
                "flips": list(self._flips),
                "seed": self._seed,
            }
        )
        shape: tuple[int, ...] = (self._shape.width,)
        if settings.masked_share:
            shape = (self._visible, *shape)
        elif self._shape.grid:
            side = min(self._shape.grid, self._side)
            shape = (side, side, *shape)
        return TargetStore(self._target.targets / key[:12], len(self._source), views, shape)


def _pooled(target: Tensor) -> Tensor:
    """Targets (B,...,D) to one vector per slice, (B,D)."""
    return target if target.ndim == 2 else target.flatten(1, -2).mean(dim=1)


def _first_component(target: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B,g,g,D) along the first principal direction of the target, on one scale from 0 to 1.

    In double precision, which autocast leaves alone: there is no eigendecomposition of bfloat16 on CUDA.
    """
    rows = target.double().flatten(0, -2)
    mean = rows.mean(dim=0)
    centred = rows - mean
    direction = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    first, second = ((part.double() - mean) @ direction for part in (target, prediction))
    low, high = first.min(), first.max()
    span = (high - low).clamp(min=1e-12)
    return (first - low) / span, (second - low) / span


def _cannot_hide(level: str, grid: int, side: int) -> UsageError:
    return UsageError(
        "E-DISTIL-01", level=level, found=f"a teacher with {grid} tokens along a side, a student with {side}"
    )
