"""One expert: SAM with a single LoRA, trained without labels by the objective of its level (recipe ``scratch``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from samora_pipeline import distributed
from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.contracts.level import Level
from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.run import LATEST_CHECKPOINT
from samora_pipeline.errors import DataError
from samora_pipeline.models.assembly import expert_state, load_expert
from samora_pipeline.models.backbones.catalog import BACKBONES
from samora_pipeline.models.expert_block import only_expert
from samora_pipeline.models.freezing import Part, freeze, parameters_by_part, snapshot, verify
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.run_log import Line, logger
from samora_pipeline.slices.datasets import UnlabelledSource
from trainers.config import Settings
from trainers.loading import on_device
from trainers.loop import train
from trainers.stages.image import ImageObjective
from trainers.stages.patch import PatchObjective
from trainers.stages.pixel import PixelObjective
from trainers.stages.pretraining import Objective, pretraining
from trainers.stages.stage import StageContext, network_on_base

PANEL_SLICES = 64
_PANEL_EPOCH = -1
"""epochs count from 0, so what is drawn for the panel is drawn for no training step"""
_SMALLEST_GAP = 0.01


@dataclass(frozen=True)
class ExpertInputs:
    """What an expert is trained from. ``base_digest`` is kept with it: an expert fits no other base."""

    level: Level
    backbone: str
    base: Path
    base_digest: str
    plans: Plans
    settings: Settings


def stage_name(level: Level) -> str:
    """The name of the stage that trains the expert of a level."""
    return f"expert_{level.value}"


def run_expert(
    inputs: ExpertInputs, source: UnlabelledSource, context: StageContext, file: Path, digest: str
) -> list[Line]:
    """Train the expert and write it to ``file`` with its record; return the history."""
    stage, plans = stage_name(inputs.level), inputs.plans
    seed = context.stage_seed(stage)
    # The decoder is built because a network has one; nothing runs it here, so its number of outputs is of no matter.
    spec = ModelSpec(
        inputs.backbone,
        plans.input_size.value,
        num_outputs=1,
        in_channels=len(plans.channel_names),
        levels=(inputs.level,),
        lora_rank=inputs.settings.model.lora_rank,
        fusion=None,
        decoder=BACKBONES.get(inputs.backbone).own_decoder,
    )
    network = network_on_base(spec, inputs.base, seed)
    freeze(network, frozenset({Part.EXPERTS}))
    objective = _objective(inputs, source, network, seed)
    network.to(context.device)
    objective.head.to(context.device)
    before = snapshot(network)
    training = pretraining(
        stage,
        network,
        objective,
        getattr(inputs.settings, stage),
        len(source),
        seed,
        experts=parameters_by_part(network)[Part.EXPERTS],
        after_first_step=lambda: verify(network, before),
    )
    history = train(training, context.circumstances(stage, file.parent, digest))
    gap = measure_gap(network, objective, len(source), context)
    if distributed.is_main():
        _report(stage, gap)
        record = {
            "level": inputs.level.value,
            "backbone": inputs.backbone,
            "base_digest": inputs.base_digest,
            "lora_rank": spec.lora_rank,
            "input_size": spec.input_size,
            "digest": digest,
            "monitor": gap,
        }
        save_checkpoint(file, expert_state(network, inputs.level), record)
        (file.parent / LATEST_CHECKPOINT).unlink(missing_ok=True)
    distributed.barrier()
    return history


def read_expert(network: SegmentationNetwork, level: Level, file: Path, base_digest: str) -> None:
    """Read a trained expert into a network.

    Raises:
        DataError: ``E-EXP-20`` when it was trained on another base, or does not fit the network.
    """
    checkpoint = load_checkpoint(file)
    if checkpoint.record.get("base_digest") != base_digest:
        raise DataError(
            "E-EXP-20",
            f"the {level.value} expert was trained on another base",
            found=f"{file}: base {str(checkpoint.record.get('base_digest'))[:12]}",
            expected=f"base {base_digest[:12]}",
            fix=f"delete {file.parent} and repeat the command; the expert is then trained again",
        )
    load_expert(network, level, checkpoint.tensors)


@torch.no_grad()
def measure_gap(
    network: SegmentationNetwork, objective: Objective, slices: int, context: StageContext
) -> dict[str, float]:
    """The objective's loss on a fixed panel of slices with the LoRA switched off and on, and the difference.

    It tells whether the expert learned anything, or the head alone did.
    """
    count = min(slices, max(PANEL_SLICES, distributed.world_size()))
    panel = [slices * number // count for number in range(count)]
    batch = on_device(objective.load(distributed.own_share(panel), _PANEL_EPOCH), context.device)
    torch.manual_seed(derived_seed(context.seed, "panel"))
    loss_on = float(objective.loss(network, batch)[0])
    with only_expert(network.image_encoder, None):
        loss_off = float(objective.loss(network, batch)[0])
    return {"loss_off": loss_off, "loss_on": loss_on, "gap": loss_off - loss_on, "slices": count}


def _objective(inputs: ExpertInputs, source: UnlabelledSource, network: SegmentationNetwork, seed: int) -> Objective:
    settings, plans, encoder = inputs.settings, inputs.plans, network.image_encoder
    if inputs.level is Level.IMAGE:
        return ImageObjective(source, plans, settings.expert_image, encoder.shapes[-1].width, seed)
    if inputs.level is Level.PATCH:
        return PatchObjective(source, plans, settings.expert_patch, encoder, seed)
    return PixelObjective(source, plans, encoder, seed)


def _report(stage: str, gap: dict[str, Any]) -> None:
    off, on = gap["loss_off"], gap["loss_on"]
    logger.info("%s: loss %.4f with the expert off, %.4f with it on, gap %+.4f", stage, off, on, off - on)
    if off - on < _SMALLEST_GAP * abs(off):
        logger.warning("%s: the expert hardly helps its own objective; train longer or use more slices", stage)
