"""H-SAMora: SAMora's experts and HL-Attn with H-SAM's two-stage decoder."""

from __future__ import annotations

from typing import ClassVar

from trainers.config import HSAMORA, Settings
from trainers.trainer import Trainer


class HSAMoraTrainer(Trainer):
    """The paper's method on H-SAM (section 3.3, Table 8): only HL-Attn and both stages of the decoder learn.

    Its mask attention is the working one; ``--set model.decoder=hsam_released`` takes that of H-SAM's public code.
    """

    settings: ClassVar[Settings] = HSAMORA
