"""How experts are made without labels: the paper's numbers of each stage (Tables 5, 7 and 12), and the recipes.

The numbers of Table 7 describe the trainings of SimCLRv2, MAE and the denoiser (A.1), so they are those of the
teachers and of the pixel level; the two distillations, for which the paper gives no settings, have its epochs and
batch, and rates of ours. What a stage does is in its file in ``trainers.stages``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from samora_pipeline.contracts.model_spec import Level
from trainers.settings import (
    EXPERT_IMAGE,
    EXPERT_PATCH,
    EXPERT_PIXEL,
    LEVEL_OF,
    TEACHER_IMAGE,
    TEACHER_PATCH,
    BootstrapSettings,
    ContrastiveSettings,
    DenoisingSettings,
    DistillationSettings,
    ImageTeacherSettings,
    MaskedSettings,
    PatchTeacherSettings,
    StageSettings,
)

Stages = Mapping[str, StageSettings]
"""stages by name, in the order in which they run"""

# Table 7: epochs, batch, learning rate and weight decay of SimCLRv2, MAE and the denoiser; betas from A.1. The first
# beta of the image teacher is LARS's momentum (SimCLRv2).
IMAGE_TEACHER = ImageTeacherSettings(80, 512, learning_rate=0.075, weight_decay=1e-4, betas=(0.9, 0.999))
PATCH_TEACHER = PatchTeacherSettings(60, 512, learning_rate=1.5e-4, weight_decay=0.05, betas=(0.9, 0.95))
DENOISING = DenoisingSettings(30, 512, learning_rate=1e-4, weight_decay=0.05, betas=(0.9, 0.99))

# The levels' own objectives on SAM + LoRA (Table 5, "Scratch"). The rate of the first is ours; MAE's base rate 1.5e-4
# is per 256 samples: 3e-4 at 512.
CONTRASTIVE = ContrastiveSettings(80, 512, learning_rate=1e-3, weight_decay=1e-4, betas=(0.9, 0.999))
MASKED = MaskedSettings(60, 512, learning_rate=3e-4, weight_decay=0.05, betas=(0.9, 0.95))
BOOTSTRAP_BASE = BootstrapSettings(60, 512, learning_rate=3e-4, weight_decay=0.05, betas=(0.9, 0.95))

# Image level: the pooled vector that the contrastive loss trained, standardised channel by channel. Patch level: all
# tokens behind the last norm, each normalised by itself (Feature Distillation, arXiv 2205.14141).
DISTILLED_IMAGE = DistillationSettings(80, 512, learning_rate=1e-3, weight_decay=0.05, betas=(0.9, 0.95))
DISTILLED_PATCH = replace(DISTILLED_IMAGE, epochs=60, scale="token")

_TAUGHT: Stages = {
    TEACHER_IMAGE: IMAGE_TEACHER,
    TEACHER_PATCH: PATCH_TEACHER,
    EXPERT_IMAGE: DISTILLED_IMAGE,
    EXPERT_PATCH: DISTILLED_PATCH,
    EXPERT_PIXEL: DENOISING,
}
_UNTRAINED: Stages = {
    **_TAUGHT,
    TEACHER_IMAGE: replace(IMAGE_TEACHER, continued=False),
    TEACHER_PATCH: replace(PATCH_TEACHER, continued=False),
}
_SCRATCH: Stages = {EXPERT_IMAGE: CONTRASTIVE, EXPERT_PATCH: MASKED, EXPERT_PIXEL: DENOISING}

# Table 7 row by row for teachers and distillations alike, its warm-up without a unit counted in epochs; Eq. 1 without
# any scaling of the features, LARS on LoRA too, and A.1's 0.9 Dice and 0.1 MSE for the pixel level.
_WARMUP: dict[str, Any] = {"warmup": 30, "warmup_unit": "epochs"}
_LITERAL: Stages = {
    TEACHER_IMAGE: replace(IMAGE_TEACHER, **_WARMUP),
    TEACHER_PATCH: replace(PATCH_TEACHER, **_WARMUP),
    EXPERT_IMAGE: DistillationSettings(
        80,
        512,
        learning_rate=0.075,
        rate_rule="square_root",
        optimizer="lars",
        weight_decay=1e-4,
        betas=(0.9, 0.999),
        clip_norm=None,
        scale="none",
        **_WARMUP,
    ),
    EXPERT_PATCH: DistillationSettings(
        60,
        512,
        learning_rate=1.5e-4,
        rate_rule="linear",
        weight_decay=0.05,
        betas=(0.9, 0.95),
        scale="none",
        **_WARMUP,
    ),
    EXPERT_PIXEL: replace(DENOISING, warmup=10, warmup_unit="epochs", dice=0.9),
}


@dataclass(frozen=True)
class Recipe:
    """One way to come by experts; the shares shorten the epochs of teachers and of experts."""

    summary: str
    stages: Stages = field(default_factory=dict)
    teacher_share: float = 1.0
    expert_share: float = 1.0

    def for_levels(self, levels: tuple[Level, ...], *, small: bool) -> dict[str, StageSettings]:
        """The stages of these levels, at the length of the recipe."""
        chosen = {}
        for name, settings in self.stages.items():
            level = LEVEL_OF.get(name)
            if level is None or level in levels:
                sized = settings.small() if small else settings
                chosen[name] = sized.shortened(teachers=self.teacher_share, experts=self.expert_share)
        return chosen


FULL, SCRATCH, NO_PRETRAINING = "full", "scratch", "none"
RECIPES = {
    FULL: Recipe("teachers trained on the pool, then distilled (Tables 5 and 7)", _TAUGHT),
    # Table 12 prints hours of CPT and of pre-training: full 12.7 and 13.4, T1 none and 1.8, T2 0.8 and 1.3.
    "T1": Recipe("public teachers as they are, a short distillation (Table 12)", _UNTRAINED, 1.0, 1.8 / 13.4),
    "T2": Recipe("teachers trained briefly, a short distillation (Table 12)", _TAUGHT, 0.8 / 12.7, 1.3 / 13.4),
    "nocpt": Recipe("public teachers as they are (Table 5, w/o CPT)", _UNTRAINED),
    SCRATCH: Recipe("each level by its own objective, no teacher (Table 5, Scratch)", _SCRATCH),
    NO_PRETRAINING: Recipe("experts without effect"),
    "paper_literal": Recipe("full, with Table 7 and A.1 taken word by word", _LITERAL),
}
