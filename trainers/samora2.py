"""SAMora-2: SAMora's experts and HL-Attn on SAM 2 (hiera-base-plus)."""

from __future__ import annotations

from typing import ClassVar

from trainers.config import SAMORA2, Settings
from trainers.trainer import Trainer


class SAMora2Trainer(Trainer):
    """The paper's method on SAM 2 (sections 3.3 and 4.1, Table 8): 25 epochs, all else as SAMora.

    Masked squares have 32 pixels a side and the pixel level reads the last tokens of Hiera's four stages.
    """

    settings: ClassVar[Settings] = SAMORA2
    default_backbone: ClassVar[str] = "sam2_hiera_b+"
