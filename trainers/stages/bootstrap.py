"""A base encoder when no public checkpoint is at hand: the whole encoder by masked modelling on the pool (ours).

The result has the layout of the family's public files, so that it is read like any other base. Its prompt encoder and
mask decoder are random: masked modelling does not touch them, and fine-tuning trains the decoder anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.run import BASE_FILE, RunConfig
from samora_pipeline.files import atomic_path
from samora_pipeline.models.backbones.backbone import Encoder, Features
from samora_pipeline.models.catalog import BACKBONES
from samora_pipeline.models.freezing import Part
from samora_pipeline.models.pretraining_heads import PatchDecoder
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.objectives.features import masked_reconstruction
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.weights.sam_checkpoint import base_state
from trainers.loop.loading import Batch
from trainers.settings import BootstrapSettings
from trainers.stages.masked import MaskedObjective, Prediction, view_of
from trainers.stages.stage import RunContext, Trainable, network_on_base
from trainers.stages.unlabelled import UnlabelledStage, sam_spec

PUBLIC_MASKS = 4
"""mask tokens of the public files, of SAM and of SAM 2"""


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
        maps = (features.embedding, *features.skips)
        return [pixels(one.permute(0, 2, 3, 1)) for pixels, one in zip(self.pixels, maps, strict=True)]


class BootstrapObjective(MaskedObjective[SegmentationNetwork]):
    """Masked reconstruction from what the whole encoder gives."""

    def __init__(
        self,
        source: UnlabelledSource,
        plans: Plans,
        settings: BootstrapSettings,
        network: SegmentationNetwork,
        seed: int,
    ) -> None:
        encoder = network.image_encoder
        super().__init__(source, plans, encoder.shapes[-1].side, settings, seed)
        channels, size = len(plans.channel_names), network.input_size
        self.cells = BootstrapHead(encoder, network.prompt_encoder.embed_dim, channels, size)
        self.head = self.cells

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
    file = BASE_FILE

    def inputs(self, run: RunConfig) -> Mapping[str, Any]:
        """See ``Stage.inputs``."""
        return {**self.common(run), "backbone": sam_spec(run).backbone}

    def build(self, run: RunConfig, context: RunContext) -> Trainable:
        """See ``Stage.build``."""
        model = sam_spec(run)
        spec = ModelSpec(
            backbone=model.backbone,
            input_size=model.input_size,
            num_outputs=PUBLIC_MASKS,
            in_channels=model.in_channels,
            levels=(),
            lora_rank=model.lora_rank,
            fusion=None,
            decoder=BACKBONES.get(model.backbone).own_decoder,
        )
        network = network_on_base(spec, None, self.seed(run))
        objective = BootstrapObjective(context.source, run.plans, self.settings, network, self.seed(run))
        return self.trainable(network, objective, run, context, learns=frozenset({Part.BASE}))

    def save(self, trained: Trainable, run: RunConfig, file: Path) -> None:
        """See ``Stage.save``."""
        state = base_state(trained.network)
        with atomic_path(file) as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in state.items()}, temporary)
