"""SAMed (arXiv 2304.13785): one LoRA on SAM, trained with the labels together with the decoder."""

from __future__ import annotations

from typing import ClassVar

from samora_pipeline.contracts.level import Level
from trainers.config import SAMED, Settings
from trainers.recipes import NO_PRETRAINING
from trainers.trainer import Trainer


class SAMedTrainer(Trainer):
    """The baseline SAMora is built on. Its LoRA takes the place of one expert and starts without effect.

    Like SAMed's code it counts the whole prompt encoder as trained, although only ``no_mask_embed`` gets a gradient.
    For a control with SAMora's budget: ``--set finetune.epochs=20 --set finetune.schedule_epochs=20 ...``.
    """

    levels: ClassVar[tuple[Level, ...]] = (Level.IMAGE,)
    recipes: ClassVar[tuple[str, ...]] = (NO_PRETRAINING,)
    parts: ClassVar[frozenset[str]] = frozenset({"experts", "decoder", "prompt", "prompt_unused", "adapter"})
    settings: ClassVar[Settings] = SAMED
