"""Where the experts come from: the arms of Tables 5, 7, 12 and 15 by name.

A recipe decides whether the image and the patch expert learn from a teacher or by their own objective, whether the
teachers are first trained on the pool (CPT), and for how long. The pixel level has no teacher in any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from samora_pipeline.contracts.level import Level
from trainers.config import Settings
from trainers.pretraining_config import DISTILLED_IMAGE, DISTILLED_PATCH, DistillationSettings, PretrainingSettings

SCRATCH = "scratch"
NO_PRETRAINING = "none"

TAUGHT_LEVELS = (Level.IMAGE, Level.PATCH)


@dataclass(frozen=True)
class Recipe:
    """One way to come by experts.

    ``experts``: whether there are any. ``taught``: image and patch expert are distilled from SimCLRv2 and MAE ("T-S");
    else they learn by their own objective ("Scratch"). ``continued``: the teachers are trained on the pool first
    ("w/ CPT"). The shares shorten the epochs of teachers and of experts; at least one epoch is left.
    """

    summary: str
    experts: bool = True
    taught: bool = False
    continued: bool = False
    teacher_share: float = 1.0
    expert_share: float = 1.0
    literal: bool = False


RECIPES: dict[str, Recipe] = {
    "full": Recipe("teachers trained on the pool, then distilled (Tables 5 and 7)", taught=True, continued=True),
    # Table 12 prints hours of CPT and of pre-training: full 12.7 and 13.4, T1 none and 1.8, T2 0.8 and 1.3.
    "T1": Recipe("public teachers as they are, a short distillation (Table 12)", taught=True, expert_share=1.8 / 13.4),
    "T2": Recipe(
        "teachers trained briefly, a short distillation (Table 12)",
        taught=True,
        continued=True,
        teacher_share=0.8 / 12.7,
        expert_share=1.3 / 13.4,
    ),
    "nocpt": Recipe("public teachers as they are (Table 5, w/o CPT)", taught=True),
    SCRATCH: Recipe("each level by its own objective, no teacher (Table 5, Scratch)"),
    NO_PRETRAINING: Recipe("experts without effect", experts=False),
    "paper_literal": Recipe("full, with Table 7 and A.1 taken word by word", taught=True, continued=True, literal=True),
}


def with_objectives(settings: Settings, recipe: Recipe) -> Settings:
    """Return the settings with the objectives that a recipe trains its experts by."""
    if not recipe.taught:
        return settings
    if recipe.literal:
        return _literal(settings)
    return replace(settings, expert_image=DISTILLED_IMAGE, expert_patch=DISTILLED_PATCH)


def with_lengths(settings: Settings, recipe: Recipe) -> Settings:
    """Return the settings with the epochs of a recipe."""
    shares = {
        name: recipe.teacher_share if name.startswith("teacher_") else recipe.expert_share
        for name, stage in vars(settings).items()
        if name.startswith(("teacher_", "expert_")) and isinstance(stage, PretrainingSettings)
    }
    changes: dict[str, Any] = {
        name: replace(getattr(settings, name), epochs=max(1, round(share * getattr(settings, name).epochs)))
        for name, share in shares.items()
    }
    return replace(settings, **changes)


def _literal(settings: Settings) -> Settings:
    """Table 7 row by row for teachers and distillations alike; its warm-up without a unit counted in epochs.

    Eq. 1 without any scaling of the features, LARS on LoRA too, and A.1's 0.9 Dice and 0.1 MSE for the pixel level.
    """
    first: dict[str, Any] = {"warmup": 30, "warmup_unit": "epochs"}
    return replace(
        settings,
        teacher_image=replace(settings.teacher_image, **first),
        teacher_patch=replace(settings.teacher_patch, **first),
        expert_image=DistillationSettings(
            epochs=80,
            learning_rate=0.075,
            rate_rule="square_root",
            optimizer="lars",
            weight_decay=1e-4,
            betas=(0.9, 0.999),
            clip_norm=None,
            scale="none",
            **first,
        ),
        expert_patch=DistillationSettings(
            epochs=60, learning_rate=1.5e-4, rate_rule="linear", betas=(0.9, 0.95), scale="none", **first
        ),
        expert_pixel=replace(settings.expert_pixel, warmup=10, warmup_unit="epochs", dice=0.9),
    )
