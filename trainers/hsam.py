"""H-SAM (CVPR 2024, arXiv 2403.18271): one LoRA on SAM, trained with the labels together with a two-stage decoder."""

from __future__ import annotations

from typing import ClassVar

from samora_pipeline.contracts.level import Level
from trainers.config import HSAM, Settings
from trainers.recipes import NO_PRETRAINING
from trainers.trainer import Trainer


class HSAMTrainer(Trainer):
    """The baseline H-SAMora is built on. Its LoRA takes the place of one expert and starts without effect.

    As in its code the whole prompt encoder counts as trained, although only ``no_mask_embed`` gets a gradient. The
    decoder is H-SAMora's, so that the two differ in the method alone; the public code's own decoder, whose
    mask attention is constant, is ``--set model.decoder=hsam_released`` at 224 or 512 px.
    """

    levels: ClassVar[tuple[Level, ...]] = (Level.IMAGE,)
    recipes: ClassVar[tuple[str, ...]] = (NO_PRETRAINING,)
    parts: ClassVar[frozenset[str]] = frozenset({"experts", "decoder", "prompt", "prompt_unused", "adapter"})
    settings: ClassVar[Settings] = HSAM
