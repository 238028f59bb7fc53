"""Image and patch level from a teacher: the expert learns its features from the same view of the same slice (Eq. 1)."""

import torch
from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.errors import UsageError
from samora_pipeline.evaluation.representations import linear_cka
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
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.views import draw_token_masks, visible_count
from trainers.loop.loading import Batch, on_device
from trainers.loop.monitors import spread_evenly
from trainers.loop.pretraining import Examination, Objective
from trainers.settings import DistillationSettings
from trainers.stages.objectives import view_of

STATISTICS_SLICES = 4096
_FIT_EPOCH = -2
"""epochs count from 0 and panels have -1, so these views are drawn for nothing else"""
_BATCH = 32


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


class DistillationObjective(Objective[SegmentationNetwork, DistillationSettings]):
    """A frozen teacher in eval mode, and the student's head. Call ``prepare`` before the first loss.

    Raises:
        UsageError: ``E-DISTIL-01`` hidden patches with a teacher that has none, or with grids that differ.
    """

    head: DistilledHead

    def __init__(
        self,
        source: UnlabelledSource,
        plans: Plans,
        settings: DistillationSettings,
        network: SegmentationNetwork,
        seed: int,
        *,
        teacher: Teacher,
        level: str,
    ) -> None:
        self._teacher, self._level = teacher, level
        self._statistics: ChannelStatistics | None = None
        super().__init__(source, plans, settings, network, seed)

    def make_head(self, network: SegmentationNetwork, channels: int) -> DistilledHead:
        """See ``Objective.make_head``."""
        encoder, share = network.image_encoder, self._settings.masked_share
        self._feature = self._settings.feature or self._teacher.default_feature
        self._shape, self._side = self._teacher.shapes[self._feature], encoder.shapes[-1].side
        self._visible = visible_count(self._side, share)
        if share and not (isinstance(self._teacher, MaeTeacher) and self._shape.grid == self._side):
            found = f"a teacher with {self._shape.grid} tokens along a side, a student with {self._side}"
            raise UsageError("E-DISTIL-01", level=self._level, found=found)
        return DistilledHead(encoder, self._shape, masked=share > 0)

    def prepare(self, device: torch.device) -> None:
        """Move the teacher and fit the scale of its channels; every rank calls this."""
        self._teacher.to(device)
        if self._settings.scale == "channel":
            self._statistics = self._fit(device)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Slices, the parameters of one view of each, and the hidden patches."""
        batch, share = super().load(indices, epoch), self._settings.masked_share
        if share:
            keys = self._source.keys(indices)
            batch["mask"] = draw_token_masks(keys, self._side, share, seed=self._seed, epoch=epoch)
        return batch

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
            "teacher_similarity": linear_cka(
                tokens.mean(dim=(1, 2)), target if target.ndim == 2 else target.flatten(1, -2).mean(dim=1)
            ),
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
        features = batch["target"] if "target" in batch else self._teach(images, mask)
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

    def _fit(self, device: torch.device) -> ChannelStatistics:
        own = distributed.own_share(spread_evenly(len(self._source), STATISTICS_SLICES))
        fit = StatisticsFit(self._shape.width)
        for start in range(0, len(own), _BATCH):
            batch = on_device(self.load(own[start : start + _BATCH], _FIT_EPOCH), device)
            fit.add(self._teach(view_of(batch), batch.get("mask")))
        return fit.result(device)


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
