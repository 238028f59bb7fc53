"""What all stages share: the circumstances of a run, and a network on its frozen base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.reproducibility import derived_seed, seed_everything
from samora_pipeline.run_log import logger
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.sam_checkpoint import load_base
from trainers.loop import Circumstances


@dataclass(frozen=True)
class StageContext:
    """How a stage runs: the device, the run's seed, the command that continues it, and whether TensorBoard is fed."""

    device: torch.device
    seed: int
    resume_command: str
    tensorboard: bool = False

    def stage_seed(self, stage: str) -> int:
        """The seed of everything that one stage draws."""
        return derived_seed(self.seed, stage)

    def circumstances(self, stage: str, folder: Path, digest: str) -> Circumstances:
        """What the loop needs to know besides the training itself."""
        seed = self.stage_seed(stage)
        return Circumstances(folder, self.device, seed, digest, self.resume_command, self.tensorboard)


def full_precision(images: Tensor) -> torch.autocast:
    """Context in which views, noise and augmentation are computed as they are defined, not in bfloat16."""
    return torch.autocast(images.device.type, enabled=False)


def network_on_base(
    spec: ModelSpec, base: Path | None, seed: int, *, copy_outputs: bool = False
) -> SegmentationNetwork:
    """Build a network whose random parts depend on ``seed`` alone, with the base read from a file (None: random).

    ``copy_outputs``: see ``load_base``.
    """
    seed_everything(seed, "network")
    network = build_network(spec)
    if base is not None:
        report = load_base(network, read_weights(base), copy_outputs=copy_outputs)
        logger.info("base %s: %s tensors", base.name, report)
    return network
