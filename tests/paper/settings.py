"""What a method's settings are, as plain values: the one file here that touches how they are kept."""

from __future__ import annotations

from typing import Any

from samora_pipeline.contracts.json_io import to_plain
from trainers.methods import TRAINERS
from trainers.runs.presets import PRESETS

METHODS = {
    "SAMed": "SAMedTrainer",
    "SAMora": "SAMoraTrainer",
    "SAMed-2": "SAMed2Trainer",
    "SAMora-2": "SAMora2Trainer",
    "H-SAM": "HSAMTrainer",
    "H-SAMora": "HSAMoraTrainer",
}
"""the paper's name: ours"""


def stage_settings(method: str, stage: str, recipe: str = "full") -> dict[str, Any]:
    """The settings of one stage of a method, or of its ``model``, at full size, before ``--set``."""
    trainer = TRAINERS.get(METHODS[method])()
    chosen = recipe if recipe in trainer.recipes else trainer.recipes[0]
    stages = {"model": trainer.model, **trainer.stages(chosen, trainer.levels, small=False)}
    settings: dict[str, Any] = to_plain(stages[stage])
    return settings


def backbone(method: str) -> str:
    """The backbone that a method has unless another is named."""
    return TRAINERS.get(METHODS[method]).backbone


def preset_epochs(method: str) -> int:
    """The epochs of fine-tuning in a method's row of Table 3."""
    preset = PRESETS[f"table3-{method.lower()}"]
    assert preset.trainers == (METHODS[method],)
    (assignment,) = preset.assignments
    return int(assignment.removeprefix("finetune.epochs="))
