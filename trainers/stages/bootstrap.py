"""A base encoder when no public checkpoint is at hand: the whole encoder by masked modelling on the pool (ours).

The result has the public SAM layout, so that it is read like any other base. Its prompt encoder and mask decoder are
random: masked modelling does not touch them, and fine-tuning trains the decoder anyway.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.run import LATEST_CHECKPOINT
from samora_pipeline.files import atomic_path
from samora_pipeline.models.freezing import Part, freeze, snapshot, verify
from samora_pipeline.models.reconstruction import PatchDecoder
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.objectives.reconstruction import masked_reconstruction
from samora_pipeline.run_log import Line
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.views import apply_views
from samora_pipeline.weights.sam_checkpoint import base_state
from trainers.config import BootstrapSettings
from trainers.loading import Batch
from trainers.loop import train
from trainers.stages.patch import MaskedSlices
from trainers.stages.pretraining import pretraining
from trainers.stages.stage import StageContext, full_precision, network_on_base

STAGE = "bootstrap"
PUBLIC_MASKS = 4
"""mask tokens of the public SAM files"""


class BootstrapHead(nn.Module):
    """The token that stands for hidden patches, at the encoder's entrance, and the decoder behind its neck.

    Reconstruction starts from the neck's embedding and not from the last block, because the neck is frozen with the
    rest of the base afterwards: it has to be trained now or never.
    """

    def __init__(self, width: int, embedding_width: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.mask_token = nn.Parameter(torch.empty(width))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        self.pixels = PatchDecoder(embedding_width, channels, patch_size).layers

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings (B,P,g,g) to patches (B,g,g,pixels)."""
        patches: Tensor = self.pixels(embedding.permute(0, 2, 3, 1))
        return patches


class BootstrapObjective:
    """Masked reconstruction from the embedding of the whole encoder."""

    def __init__(
        self,
        source: UnlabelledSource,
        plans: Plans,
        settings: BootstrapSettings,
        network: SegmentationNetwork,
        seed: int,
    ) -> None:
        encoder = network.image_encoder
        embedding_width = network.prompt_encoder.embed_dim
        patch_size = plans.input_size.value // encoder.grid
        self.head = BootstrapHead(encoder.embed_dim, embedding_width, len(plans.channel_names), patch_size)
        self._slices = MaskedSlices(source, plans, encoder.grid, settings.masked_share, seed)

    def load(self, indices: list[int], epoch: int) -> Batch:
        """See ``MaskedSlices.load``."""
        return self._slices.load(indices, epoch)

    def loss(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean squared error over hidden patches, normalised patch by patch."""
        encoder, mask = network.image_encoder, batch["mask"]
        with full_precision(batch["images"]):
            images = apply_views(batch["images"], batch["view"])
        (tokens,) = encoder.forward_tokens(
            network.to_rgb(images), (encoder.depth,), token_mask=mask, mask_token=self.head.mask_token
        )
        embedding = encoder.get_submodule("neck")(tokens.permute(0, 3, 1, 2))
        return masked_reconstruction(self.head(embedding), images, mask), {}


def run_bootstrap(
    backbone: str,
    source: UnlabelledSource,
    plans: Plans,
    settings: BootstrapSettings,
    context: StageContext,
    file: Path,
    digest: str,
) -> list[Line]:
    """Train the base and write it to ``file`` (safetensors, public SAM layout); return the history."""
    spec = ModelSpec(
        backbone, plans.input_size.value, PUBLIC_MASKS, in_channels=len(plans.channel_names), levels=(), fusion=None
    )
    seed = context.stage_seed(STAGE)
    network = network_on_base(spec, None, seed)
    freeze(network, frozenset({Part.BASE}))
    objective = BootstrapObjective(source, plans, settings, network, seed)
    network.to(context.device)
    objective.head.to(context.device)
    before = snapshot(network)
    training = pretraining(
        STAGE,
        network,
        objective,
        settings,
        len(source),
        seed,
        experts={},
        after_first_step=lambda: verify(network, before),
    )
    history = train(training, context.circumstances(STAGE, file.parent, digest))
    if distributed.is_main():
        with atomic_path(file) as temporary:
            save_file({name: tensor.cpu().contiguous() for name, tensor in base_state(network).items()}, temporary)
        (file.parent / LATEST_CHECKPOINT).unlink(missing_ok=True)
    distributed.barrier()
    return history
