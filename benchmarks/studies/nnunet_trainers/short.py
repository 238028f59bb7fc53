"""nnU-Net's own training, shortened for machines without a GPU. Found by nnU-Net itself through nnUNet_extTrainer.

Only the length differs: as many steps as one of nnU-Net's thousand epochs, in pieces that its learning rate, which
changes between epochs, can fall over, and that a kill costs little of.
"""

from __future__ import annotations

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainer_250steps(nnUNetTrainer):  # type: ignore[misc] # noqa: N801
    """25 epochs of 10 steps, saved after each."""

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        # nnU-Net reads the names of these parameters to write its checkpoint.
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 25
        self.num_iterations_per_epoch = 10
        self.num_val_iterations_per_epoch = 1
        self.save_every = 1
