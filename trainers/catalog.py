"""The trainers by name. A new one is a file beside this one and a line here."""

from __future__ import annotations

from samora_pipeline.registry import Registry
from trainers.hsam import HSAMTrainer
from trainers.hsamora import HSAMoraTrainer
from trainers.samed import SAMedTrainer
from trainers.samora import SAMoraTrainer
from trainers.trainer import Trainer

TRAINERS: Registry[type[Trainer]] = Registry("trainer")

TRAINERS.register("SAMoraTrainer")(SAMoraTrainer)
TRAINERS.register("SAMedTrainer")(SAMedTrainer)
TRAINERS.register("HSAMoraTrainer")(HSAMoraTrainer)
TRAINERS.register("HSAMTrainer")(HSAMTrainer)
