"""What the stages without labels share, and the one that makes a base encoder when no public checkpoint is at hand.

The bootstrap (ours) trains the whole encoder by masked modelling on the pool. Its result has the layout of the
family's public files, so that it is read like any other base. Its prompt encoder and mask decoder are random: masked
modelling does not touch them, and fine-tuning trains the decoder anyway.
"""

from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from samora_pipeline.contracts.checkpoints import write_tensors
from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.contracts.run import (
    BASE_FILE,
    POOL_FLAGS,
    RANDOM_TEACHER_FLAG,
    UNTRAINED_TEACHER_FLAG,
    RunConfig,
    TeacherRecord,
)
from samora_pipeline.errors import UsageError
from samora_pipeline.models.backbones.backbone import Encoder, Features
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.freezing import Part, parameters_by_part
from samora_pipeline.models.pretraining_heads import PatchDecoder
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.objectives.features import masked_reconstruction
from samora_pipeline.weights.sam_checkpoint import base_state
from trainers.loop.loading import Batch
from trainers.loop.loop import Training
from trainers.loop.monitors import Monitor
from trainers.loop.pretraining import Objective, pretraining
from trainers.settings import LEVEL_OF, RANDOM_WEIGHTS, BootstrapSettings, PretrainingSettings
from trainers.stages.encoder import network_on_base
from trainers.stages.objectives import MaskedObjective, Prediction, view_of
from trainers.stages.stage import RunContext, Stage, Trainable

P = TypeVar("P", bound=PretrainingSettings)


PUBLIC_MASKS = 4
"""mask tokens of the public files, of SAM and of SAM 2"""


class UnlabelledStage(Stage[P], ABC):
    """A stage that learns from the pool; runs with the same pool, seed, input size and settings share its result.

    ``task`` is the class of its objective, made of slices, plan, settings, network and seed.
    """

    task: ClassVar[Callable[..., Objective[Any, Any]]]

    def common(self, run: RunConfig) -> dict[str, Any]:
        """What the results of all stages without labels depend on."""
        return {
            "input_size": run.model.input_size,
            "channels": run.model.in_channels,
            "pool": run.pool.key,
            "seed": run.seed,
        }

    def objective(self, network: Any, run: RunConfig, context: RunContext) -> Objective[Any, Any]:
        """What is learned: an instance of ``task``."""
        return self.task(context.source, run.plans, self.settings, network, self.seed(run))

    def trainable(
        self,
        network: Any,
        run: RunConfig,
        context: RunContext,
        *,
        learns: frozenset[Part] | None,
        level: Level | None = None,
    ) -> Trainable:
        """Describe the training of ``network`` by the stage's objective; ``level`` is that of an expert."""
        objective = self.objective(network, run, context)
        source, learned = context.source, LEVEL_OF.get(self.name)
        teacher = run.teachers.get(learned.value) if learned else None
        warning = teacher_flag(teacher) if teacher else None
        shared = tuple(flag for flag in run.warnings if flag in POOL_FLAGS)
        parameters = dict(network.named_parameters())
        # Without parts it is a teacher, whose running statistics change with it.
        buffers = {} if learns is not None else network.state_dict(keep_vars=True)

        def training() -> Training:
            return pretraining(
                self.name,
                network,
                objective,
                self.settings,
                len(source),
                self.seed(run),
                experts={} if level is None else parameters_by_part(network)[Part.EXPERTS],
                buffers={name: value for name, value in buffers.items() if name not in parameters},
                names=source.keys,
            )

        return Trainable(
            network,
            training,
            learns=learns,
            head=objective.head,
            monitor=Monitor(
                self.name,
                network,
                objective,
                source,
                self.settings,
                context.device,
                level,
                taught_by=teacher_text(teacher) if teacher else "",
                warnings=(*shared, warning) if warning else shared,
            ),
        )


def teacher_flag(record: TeacherRecord) -> str | None:
    """What every report has to say about a teacher."""
    if record.origin != RANDOM_WEIGHTS:
        return None
    return RANDOM_TEACHER_FLAG if record.continued else UNTRAINED_TEACHER_FLAG


def teacher_text(record: TeacherRecord) -> str:
    """A teacher in words."""
    if record.origin == RANDOM_WEIGHTS:
        start = "random weights, because it has no public file"
    else:
        start = f"{record.weights} ({record.licence or 'own file'})"
    return f"{record.network} from {start}; {'trained on the pool first' if record.continued else 'taken as it is'}"


def sam_spec(run: RunConfig) -> ModelSpec:
    """The network of a run, which has to be a SAM.

    Raises:
        UsageError: ``E-STAGE-02`` any other network has no place for experts.
    """
    if not isinstance(run.model, ModelSpec):
        raise UsageError("E-STAGE-02", found=run.model.network)
    return run.model


def bare_spec(run: RunConfig, outputs: int, *levels: Level) -> ModelSpec:
    """The network of a run with the family's own decoder and, of all that is added to the base, these experts alone."""
    model = sam_spec(run)
    decoder = BACKBONES.get(model.backbone).own_decoder
    return replace(model, num_outputs=outputs, levels=levels, fusion=None, decoder=decoder, block_adapters=False)


class BootstrapHead(nn.Module):
    """The token that stands for hidden patches, at the encoder's entrance, and a decoder for each output of its neck.

    Reconstruction starts from the neck's features and not from the last block, because the neck is frozen with the
    rest of the base afterwards: it has to be trained now or never. Each output (one for SAM, three for SAM 2) gives
    the pixels of the cells of its own grid.
    """

    def __init__(self, encoder: Encoder, embedding_width: int, channels: int, input_size: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(encoder.embed_dim))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.pixels = nn.ModuleList(
            PatchDecoder(embedding_width, channels, input_size // side).layers for side in encoder.feature_sides
        )

    def forward(self, features: Features) -> list[Tensor]:
        """Features (B,P,s,s), the embedding first, to the pixels of their cells, (B,s,s,pixels) each."""
        maps = (features.embedding, *features.skips)[: len(self.pixels)]
        return [pixels(one.permute(0, 2, 3, 1)) for pixels, one in zip(self.pixels, maps, strict=True)]


class BootstrapObjective(MaskedObjective[SegmentationNetwork]):
    """Masked reconstruction from what the whole encoder gives."""

    def make_head(self, network: SegmentationNetwork, channels: int) -> nn.Module:
        """See ``Objective.make_head``."""
        encoder, width = network.image_encoder, network.prompt_encoder.embed_dim
        self._grid = encoder.shapes[-1].side
        self.cells = BootstrapHead(encoder, width, channels, network.input_size)
        return self.cells

    def predict(self, network: SegmentationNetwork, images: Tensor, mask: Tensor) -> Prediction:
        """What the embedding, the coarsest of the features, reconstructs."""
        features = self._features(network, images, mask)
        return Prediction(self.cells(features)[0], images, features.embedding.mean(dim=(2, 3)))

    def loss(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over hidden patches, normalised patch by patch, plus that of finer features as they are.

        A cell of four pixels is too small to be normalised by itself.
        """
        images, mask = view_of(batch), batch["mask"]
        embedding, *finer = self.cells(self._features(network, images, mask))
        loss = masked_reconstruction(embedding, images, _on_grid(mask, embedding))
        for prediction in finer:
            loss = loss + masked_reconstruction(prediction, images, _on_grid(mask, prediction), normalised=False)
        return loss, {}

    def _error(self, prediction: Prediction, mask: Tensor) -> Tensor:
        return super()._error(prediction, _on_grid(mask, prediction.patches))

    def _features(self, network: SegmentationNetwork, images: Tensor, mask: Tensor) -> Features:
        features: Features = network.image_encoder(
            network.to_rgb(images), token_mask=mask, mask_token=self.cells.mask_token
        )
        return features


def _on_grid(mask: Tensor, cells: Tensor) -> Tensor:
    """A mask (B,m,m) on the grid of cells (B,s,s,pixels)."""
    factor = cells.shape[1] // mask.shape[1]
    return mask.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


class Bootstrap(UnlabelledStage[BootstrapSettings]):
    """The whole encoder by masked modelling, written in the layout of the family's public files."""

    Settings = BootstrapSettings
    task = BootstrapObjective
    file = BASE_FILE

    def inputs(self, run: RunConfig) -> Mapping[str, Any]:
        """See ``Stage.inputs``."""
        return {**self.common(run), "backbone": sam_spec(run).backbone}

    def build(self, run: RunConfig, context: RunContext) -> Trainable:
        """See ``Stage.build``."""
        network = network_on_base(bare_spec(run, PUBLIC_MASKS), None, self.seed(run))
        return self.trainable(network, run, context, learns=frozenset({Part.BASE}))

    def save(self, trained: Trainable, run: RunConfig, file: Path) -> None:
        """See ``Stage.save``."""
        state = base_state(trained.network)
        write_tensors(file, {name: tensor.cpu().contiguous() for name, tensor in state.items()})
