"""AutoSAM (Hu et al., arXiv 2306.13731): SAM's encoder as it is, and its mask decoder trained class by class."""

from __future__ import annotations

from typing import ClassVar

from samora_pipeline.contracts.level import Level
from trainers.config import AUTOSAM, Settings
from trainers.recipes import NO_PRETRAINING
from trainers.trainer import Trainer


class AutoSAMTrainer(Trainer):
    """A baseline without experts: the encoder is frozen, there are no prompts, only the decoder learns.

    SAMora's table cites another paper for AutoSAM ([37], prompts made by a network) and has H-SAM's figures; the
    public code of this name is the one that is followed here.
    """

    levels: ClassVar[tuple[Level, ...]] = ()
    recipes: ClassVar[tuple[str, ...]] = (NO_PRETRAINING,)
    parts: ClassVar[frozenset[str]] = frozenset({"decoder", "adapter"})
    settings: ClassVar[Settings] = AUTOSAM
