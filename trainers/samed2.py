"""SAMed-2: one LoRA on SAM 2, trained with the labels together with the decoder."""

from __future__ import annotations

from typing import ClassVar

from trainers.config import SAMED2, Settings
from trainers.samed import SAMedTrainer


class SAMed2Trainer(SAMedTrainer):
    """The baseline of SAMora-2; "a similar approach to SAMed" (section 3.3) and no public code.

    Its LoRA is as wide as the output of each block. The public LoRA codes for SAM 2 size it by the input, so that in
    the three blocks that change stage only half of q and half of v is adapted.
    """

    settings: ClassVar[Settings] = SAMED2
    default_backbone: ClassVar[str] = "sam2_hiera_b+"
