"""The trainers by name. A new one is a file beside this one and a line here."""

from __future__ import annotations

from samora_pipeline.registry import Registry
from trainers.autosam import AutoSAMTrainer
from trainers.hsam import HSAMTrainer
from trainers.hsamora import HSAMoraTrainer
from trainers.sam_adapter import SAMAdapterTrainer
from trainers.samed import SAMedTrainer
from trainers.samed2 import SAMed2Trainer
from trainers.samora import SAMoraTrainer
from trainers.samora2 import SAMora2Trainer
from trainers.trainer import Trainer

TRAINERS: Registry[type[Trainer]] = Registry("trainer")

TRAINERS.register("SAMoraTrainer")(SAMoraTrainer)
TRAINERS.register("SAMedTrainer")(SAMedTrainer)
TRAINERS.register("SAMora2Trainer")(SAMora2Trainer)
TRAINERS.register("SAMed2Trainer")(SAMed2Trainer)
TRAINERS.register("HSAMoraTrainer")(HSAMoraTrainer)
TRAINERS.register("HSAMTrainer")(HSAMTrainer)
TRAINERS.register("AutoSAMTrainer")(AutoSAMTrainer)
TRAINERS.register("SAMAdapterTrainer")(SAMAdapterTrainer)
