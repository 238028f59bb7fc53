"""SAM-Adapter (Chen et al., arXiv 2304.09148): small networks in front of every block of a frozen SAM encoder."""

from __future__ import annotations

from typing import ClassVar

from samora_pipeline.contracts.level import Level
from trainers.config import SAM_ADAPTER, Settings
from trainers.recipes import NO_PRETRAINING
from trainers.trainer import Trainer


class SAMAdapterTrainer(Trainer):
    """A baseline without experts: adapters, mask decoder and the embedding of having no mask learn.

    Its code segments one class; for more the mask decoder has one token per output, as SAMed's.
    """

    levels: ClassVar[tuple[Level, ...]] = ()
    recipes: ClassVar[tuple[str, ...]] = (NO_PRETRAINING,)
    parts: ClassVar[frozenset[str]] = frozenset({"block_adapters", "decoder", "prompt", "adapter"})
    settings: ClassVar[Settings] = SAM_ADAPTER
    block_adapters: ClassVar[bool] = True
