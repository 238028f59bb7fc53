"""The settings of every stage: frozen, complete, and free of torch. What they leave out changes no result.

A comment says where a number is from; "ours" where the paper is silent or cannot be followed. Numbers that the paper
prints (Tables 7 and 8) stand in ``trainers.methods``. ``--set STAGE.NAME=VALUE`` changes any of them.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, NamedTuple, Self

from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.contracts.random_steps import (
    CONTRASTIVE_VIEWS,
    DISTILLATION_VIEWS,
    MASKED_VIEWS,
    NoiseSpec,
    ViewSettings,
)
from samora_pipeline.errors import UsageError

BOOTSTRAP, TEACHER_IMAGE, TEACHER_PATCH = "bootstrap", "teacher_image", "teacher_patch"
EXPERT_IMAGE, EXPERT_PATCH, EXPERT_PIXEL = "expert_image", "expert_patch", "expert_pixel"
FINETUNE, VALIDATE = "finetune", "validate"
STAGE_NAMES = (
    *(BOOTSTRAP, TEACHER_IMAGE, TEACHER_PATCH, EXPERT_IMAGE, EXPERT_PATCH, EXPERT_PIXEL),
    *(FINETUNE, VALIDATE),
)
"""in their order; every random draw of a stage hangs on its name"""
LEVEL_OF = {
    TEACHER_IMAGE: Level.IMAGE,
    TEACHER_PATCH: Level.PATCH,
    EXPERT_IMAGE: Level.IMAGE,
    EXPERT_PATCH: Level.PATCH,
    EXPERT_PIXEL: Level.PIXEL,
}
TEACHER_OF = {EXPERT_IMAGE: TEACHER_IMAGE, EXPERT_PATCH: TEACHER_PATCH}

Betas = tuple[float, float]
OptimizerName = Literal["adamw", "lars"]
RateRule = Literal["fixed", "square_root", "linear"]
# Those of the library's modules that import torch, which this one does not.
WarmupUnit = Literal["fraction", "epochs", "steps"]
TargetScale = Literal["channel", "token", "none"]

RANDOM_WEIGHTS = "random"
"""``weights`` of a teacher that has no public file"""

EXACT = frozenset({"micro_batch", "checkpointing"})
"""settings that change no result, so that they may follow the machine and are in no key"""

_POSITIVE = (
    *("epochs", "batch", "micro_batch", "learning_rate", "fusion_rate", "steps_per_epoch", "schedule_epochs"),
    *("clip_norm", "input_size", "temperature", "norm_batch"),
)
# Ours: what a few minutes on a CPU allow. Lengths are fixed in steps, whatever the size of the pool.
_WHOLE: dict[str, Any] = {"micro_batch": None, "whole_batches": True}
_SHORT: dict[str, Any] = {"epochs": 4, "batch": 24, "steps_per_epoch": 12, **_WHOLE}


class Length(NamedTuple):
    """How long a stage is: epochs, steps in each at most, slices in a step."""

    epochs: int
    steps: int
    batch: int

    def __str__(self) -> str:
        return f"{self.epochs} epochs of at most {self.steps} steps, batches of {self.batch}"


@dataclass(frozen=True)
class StageSettings:
    """What changes the result of one stage. ``kind`` names its class in ``trainers.stages.catalog``.

    Raises:
        UsageError: ``E-SET-04`` a length, size or rate that is not positive, or a share outside [0, 1).
    """

    kind: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name in _POSITIVE and value is not None and value <= 0:
                raise UsageError("E-SET-04", what=f"{name} must be positive", found=str(value))
            if name == "masked_share" and not 0 <= value < 1:
                raise UsageError(
                    "E-SET-04", what=f"{name} is a share", found=str(value), expected="at least 0, less than 1"
                )

    def small(self) -> Self:
        """The settings for a small backbone on a CPU (ours): the same objective, minutes instead of days."""
        return self

    def short(self) -> Self:
        """The settings of ``--fast-dev-run``."""
        return self

    def shortened(self, *, teachers: float, experts: float) -> Self:
        """The settings with the share of the epochs that a recipe gives to teachers or experts, at least one."""
        return self

    def length(self, slices: int) -> Length:
        """How long the stage is on so many slices."""
        return Length(0, 0, 0)


@dataclass(frozen=True)
class PretrainingSettings(StageSettings):
    """What all stages without labels share.

    ``steps_per_epoch`` shortens an epoch to a random part of the pool; None: every slice once. ``batch`` counts over
    all ranks and accumulation steps, ``micro_batch`` on one device at a time, at most (None: as many as fit); fewer
    where memory does not suffice, which changes no result. ``whole_batches``: the tail of an epoch is left to the next
    one's shuffle. ``norm_batch``: slices, over all ranks, whose statistics a batch norm takes together. ``rate_rule``:
    ``square_root`` multiplies ``learning_rate`` by the root of the batch (SimCLRv2), ``linear`` by batch / 256 (MAE).
    """

    epochs: int
    batch: int
    learning_rate: float
    weight_decay: float
    betas: Betas
    micro_batch: int | None = 64
    whole_batches: bool = False
    norm_batch: int | None = None
    optimizer: OptimizerName = "adamw"
    rate_rule: RateRule = "fixed"
    # "The first 5 % of epochs" (A.1). Table 7 prints 30/30/10 without a unit: as epochs that is half of the run.
    warmup: float = 0.05
    warmup_unit: WarmupUnit = "fraction"
    steps_per_epoch: int | None = None
    clip_norm: float | None = 1.0  # ours: bf16 masked modelling is known to spike without it
    views: ViewSettings = MASKED_VIEWS

    def short(self) -> Self:
        """Two steps on at most four slices each."""
        return replace(self, epochs=1, steps_per_epoch=2, batch=min(self.batch, 4))

    def shortened(self, *, teachers: float, experts: float) -> Self:
        """See ``StageSettings.shortened``; an expert's share."""
        return replace(self, epochs=max(1, round(experts * self.epochs)))

    def length(self, slices: int) -> Length:
        """See ``StageSettings.length``."""
        return length_of(self.epochs, self.batch, self.steps_per_epoch, slices)


@dataclass(frozen=True)
class MaskingSettings(PretrainingSettings):
    """Masked modelling. ``normalised``, ``skip_flat``: see ``objectives.features.masked_reconstruction``."""

    masked_share: float = 0.6  # SimMIM; MAE's 75 % belongs to an encoder that never sees hidden patches
    normalised: bool = True  # MAE: targets normalised patch by patch
    skip_flat: bool = False  # ours, off for faithfulness: no loss on hidden patches of air


@dataclass(frozen=True)
class BootstrapSettings(MaskingSettings):
    """Ours: the whole encoder by masked modelling (SimMIM form) when no public checkpoint is at hand."""

    kind: ClassVar[str] = "bootstrap"

    def small(self) -> Self:
        """Twelve epochs of 30 steps."""
        return replace(self, epochs=12, batch=32, learning_rate=1e-3, steps_per_epoch=30, **_WHOLE)


@dataclass(frozen=True)
class TeacherSettings(PretrainingSettings):
    """What both teachers have: a network of ``models.catalog`` and what it starts from.

    ``weights`` is a catalogue name, a file, or ``random``; ``input_size`` None is that of the run. Without
    ``continued`` the teacher is taken as it is and not trained on the pool (no CPT).
    """

    network: str = ""
    weights: str = ""
    input_size: int | None = None
    continued: bool = True

    def shortened(self, *, teachers: float, experts: float) -> Self:
        """See ``StageSettings.shortened``; a teacher's share."""
        return super().shortened(teachers=teachers, experts=teachers)

    def tiny(self, network: str, **changes: Any) -> Self:
        """A tiny network of the same family from random weights: the tiny teachers have no public file."""
        short = {**_SHORT, "epochs": 6, "rate_rule": "fixed", "learning_rate": 2e-3, **changes}
        return replace(self, network=network, weights=RANDOM_WEIGHTS, **short)


@dataclass(frozen=True)
class ImageTeacherSettings(TeacherSettings):
    """Continual pre-training of SimCLRv2: NT-Xent, LARS. Rate rule, momentum and temperature: SimCLRv2."""

    kind: ClassVar[str] = "image_teacher"

    network: str = "simclr_r50_2x_sk1"  # ResNet-50 (2x + SK), A.1
    weights: str = "simclr_r50_2x_sk1"
    micro_batch: int | None = None  # a cut NT-Xent takes one more forward pass
    whole_batches: bool = True  # its negatives are the batch
    # Ours, decision 117: 512 of its batch normalised together take 120 GiB; SimCLRv2 normalised over all 4,096.
    norm_batch: int | None = 64
    rate_rule: RateRule = "square_root"  # SimCLRv2: 0.075 x sqrt(batch), 1.697 at 512
    optimizer: OptimizerName = "lars"
    clip_norm: float | None = None  # LARS scales each tensor's step itself
    temperature: float = 0.1  # SimCLRv2
    checkpointing: bool = False  # true: also where memory suffices without it
    views: ViewSettings = CONTRASTIVE_VIEWS

    def small(self) -> Self:
        """See ``tiny``; AdamW, because a tiny batch has no use for LARS."""
        return self.tiny("simclr_tiny", optimizer="adamw", temperature=0.2, warmup=0.05, warmup_unit="fraction")


@dataclass(frozen=True)
class PatchTeacherSettings(TeacherSettings, MaskingSettings):
    """Continual pre-training of MAE; share of hidden patches and target: MAE."""

    kind: ClassVar[str] = "patch_teacher"

    network: str = "mae_vit_l"  # ViT-Large, A.1
    weights: str = "mae_vit_l_full"
    rate_rule: RateRule = "linear"  # MAE: 1.5e-4 x batch / 256, 3e-4 at 512
    masked_share: float = 0.75  # MAE

    def small(self) -> Self:
        """See ``tiny``."""
        return self.tiny("mae_tiny", warmup=0.05, warmup_unit="fraction")


@dataclass(frozen=True)
class ContrastiveSettings(PretrainingSettings):
    """Image level by its own objective: NT-Xent on SAM + LoRA.

    Table 7's LARS with learning rate 0.075 belongs to a ResNet. On LoRA, whose B starts at zero, LARS has no trust
    ratio and its first step is two orders of magnitude too large, so AdamW is used, with a rate of ours.
    """

    kind: ClassVar[str] = "contrastive_expert"

    micro_batch: int | None = None  # a cut NT-Xent takes one more forward pass
    whole_batches: bool = True  # its negatives are the batch
    temperature: float = 0.1  # SimCLRv2
    views: ViewSettings = CONTRASTIVE_VIEWS

    def small(self) -> Self:
        """Four epochs of 12 steps."""
        return replace(self, **_SHORT, learning_rate=2e-3, temperature=0.2)


@dataclass(frozen=True)
class MaskedSettings(MaskingSettings):
    """Patch level by its own objective: masked reconstruction on SAM + LoRA without dropping tokens."""

    kind: ClassVar[str] = "masked_expert"

    def small(self) -> Self:
        """Four epochs of 12 steps."""
        return replace(self, **_SHORT, learning_rate=1e-2)


@dataclass(frozen=True)
class DenoisingSettings(PretrainingSettings):
    """Pixel level: denoising with a U-Net decoder on SAM + LoRA, pure MSE (Eq. 1).

    ``dice``: share of a soft Dice of the intensities in the loss, the rest is MSE.
    """

    kind: ClassVar[str] = "denoising_expert"

    dice: float = 0.0  # Eq. 1; A.1's 0.9 is the wording of H-SAM's second stage
    noise: NoiseSpec = field(default_factory=NoiseSpec)

    def small(self) -> Self:
        """Four epochs of 12 steps. Measured on the phantom: at a rate of 2e-3 slices are restored for the worse."""
        changes = {**_SHORT, "batch": 8, "learning_rate": 1e-2, "warmup": 0.05, "warmup_unit": "fraction"}
        return replace(self, **changes)


@dataclass(frozen=True)
class DistillationSettings(PretrainingSettings):
    """An expert that learns a teacher's features from the same view of the same slice (Eq. 1).

    ``feature``: one of the teacher's (None: its default). ``scale``: see ``objectives.features.scaled_target``.
    ``masked_share``: this share of the patches is hidden from both, and only visible tokens are compared (MAE only).
    LoRA does not decay.
    """

    kind: ClassVar[str] = "distilled_expert"

    feature: str | None = None
    scale: TargetScale = "channel"
    masked_share: float = 0.0
    views: ViewSettings = DISTILLATION_VIEWS

    def small(self) -> Self:
        """Four epochs of 12 steps."""
        return replace(self, **_SHORT, learning_rate=1e-2)


def length_of(epochs: int, batch: int, steps_per_epoch: int | None, slices: int) -> Length:
    """The length of a stage of so many ``epochs`` of at most ``steps_per_epoch`` batches, on so many ``slices``."""
    size = min(batch, slices)
    return Length(epochs, min(math.ceil(slices / max(1, size)), steps_per_epoch or slices), size)
