"""SAMora: three experts pre-trained without labels, fused by HL-Attn while only HL-Attn and the decoder learn."""

from __future__ import annotations

from trainers.trainer import Trainer


class SAMoraTrainer(Trainer):
    """The paper's method on SAM: experts and base are frozen in stage 2 (sections 3.2 and 3.3, Tables 7 and 8).

    With recipe ``none`` the experts stay without effect: the control arm that has all parts but no pre-training.
    """
