"""How each stage without labels is trained: frozen settings, with the paper's numbers where it prints them (Table 7).

A comment says where a number is from; "ours" where the paper is silent or cannot be followed. Table 7 describes the
trainings of SimCLRv2, MAE and the denoiser (A.1), so it is followed for the teachers and the pixel level; for the two
distillations, of which the paper gives no settings, only its epochs and batch are taken over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from samora_pipeline.errors import UsageError
from samora_pipeline.optimization.schedules import WarmupUnit

Betas = tuple[float, float]
OptimizerName = Literal["adamw", "lars"]
RateRule = Literal["fixed", "square_root", "linear"]
# Those of objectives.distillation, which is not imported here because it imports torch.
TargetScale = Literal["channel", "token", "none"]

RANDOM_WEIGHTS = "random"
"""weights of a teacher that has no public file"""

_POSITIVE = (
    "epochs",
    "batch",
    "micro_batch",
    "learning_rate",
    "fusion_rate",
    "steps_per_epoch",
    "schedule_epochs",
    "clip_norm",
)
_SHARES = ("masked_share",)


def check_settings(settings: Any) -> None:
    """Refuse lengths, sizes and rates that are not positive, and shares outside [0, 1).

    Raises:
        UsageError: ``E-SET-04``.
    """
    for name in (*_POSITIVE, "view_count", "input_size", "temperature"):
        value = getattr(settings, name, None)
        if value is not None and value <= 0:
            raise UsageError("E-SET-04", f"{name} must be positive", found=str(value), expected="more than 0")
    for name in _SHARES:
        value = float(getattr(settings, name, 0.0))
        if not 0 <= value < 1:
            raise UsageError("E-SET-04", f"{name} is a share", found=str(value), expected="at least 0, less than 1")


@dataclass(frozen=True)
class PretrainingSettings:
    """What all stages without labels share.

    ``steps_per_epoch`` shortens an epoch to a random part of the pool; None: every slice once. ``batch`` counts over
    all ranks and accumulation steps, ``micro_batch`` on one device at a time (None: never cut). ``rate_rule``:
    ``square_root`` multiplies ``learning_rate`` by the root of the batch (SimCLRv2), ``linear`` by batch / 256 (MAE).

    Raises:
        UsageError: ``E-SET-04`` a length, size or rate that is not positive, or a share that is none.
    """

    epochs: int
    batch: int
    micro_batch: int | None
    learning_rate: float
    weight_decay: float
    betas: Betas
    optimizer: OptimizerName = "adamw"
    rate_rule: RateRule = "fixed"
    # "The first 5 % of epochs" (A.1). Table 7 prints 30/30/10 without a unit: as epochs that is half of the run.
    warmup: float = 0.05
    warmup_unit: WarmupUnit = "fraction"
    steps_per_epoch: int | None = None
    clip_norm: float | None = 1.0  # ours: bf16 masked modelling is known to spike without it

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class BootstrapSettings(PretrainingSettings):
    """Ours: the whole encoder by masked modelling (SimMIM form) when no public checkpoint is at hand."""

    epochs: int = 60
    batch: int = 512
    micro_batch: int | None = 64
    learning_rate: float = 3e-4  # MAE: 1.5e-4 x batch / 256
    weight_decay: float = 0.05
    betas: Betas = (0.9, 0.95)
    masked_share: float = 0.6  # SimMIM; MAE's 75 % belongs to an encoder that never sees hidden patches


@dataclass(frozen=True)
class ImageTeacherSettings(PretrainingSettings):
    """Continual pre-training of SimCLRv2: NT-Xent, LARS. Table 7, first column; rate rule and momentum: SimCLRv2.

    ``network`` is a name of ``models.teachers.catalog``; ``weights`` a catalogue name, a file, or ``random``.
    ``input_size`` None: that of the run.
    """

    network: str = "simclr_r50_2x_sk1"  # ResNet-50 (2x + SK), A.1
    weights: str = "simclr_r50_2x_sk1"
    input_size: int | None = None
    epochs: int = 80
    batch: int = 512
    micro_batch: int | None = None  # NT-Xent needs all its negatives at once
    learning_rate: float = 0.075
    rate_rule: RateRule = "square_root"  # SimCLRv2: 0.075 x sqrt(batch), 1.697 at 512
    optimizer: OptimizerName = "lars"
    weight_decay: float = 1e-4
    betas: Betas = (0.9, 0.999)  # the first is LARS's momentum (SimCLRv2); the second is AdamW's only
    clip_norm: float | None = None  # LARS scales each tensor's step itself
    temperature: float = 0.1  # SimCLRv2
    checkpointing: bool = False  # ours: a batch that does not fit is recomputed block by block, never cut


@dataclass(frozen=True)
class PatchTeacherSettings(PretrainingSettings):
    """Continual pre-training of MAE. Table 7, second column; share of hidden patches and target: MAE.

    ``network``, ``weights``, ``input_size``: see ``ImageTeacherSettings``.
    """

    network: str = "mae_vit_l"  # ViT-Large, A.1
    weights: str = "mae_vit_l_full"
    input_size: int | None = None
    epochs: int = 60
    batch: int = 512
    micro_batch: int | None = 64
    learning_rate: float = 1.5e-4
    rate_rule: RateRule = "linear"  # MAE: 1.5e-4 x batch / 256, 3e-4 at 512
    weight_decay: float = 0.05
    betas: Betas = (0.9, 0.95)  # A.1
    masked_share: float = 0.75  # MAE
    normalised: bool = True  # MAE: targets normalised patch by patch
    skip_flat: bool = False  # ours, off for faithfulness: no loss on hidden patches of air


@dataclass(frozen=True)
class ImageSettings(PretrainingSettings):
    """Image level by its own objective: NT-Xent on SAM + LoRA. Epochs, batch, weight decay: Table 7, first column.

    Table 7's LARS with learning rate 0.075 belongs to a ResNet. On LoRA, whose B starts at zero, LARS has no trust
    ratio and its first step is two orders of magnitude too large, so AdamW is used, with a rate of ours.
    """

    epochs: int = 80
    batch: int = 512
    micro_batch: int | None = None  # NT-Xent needs all its negatives at once
    learning_rate: float = 1e-3  # ours
    weight_decay: float = 1e-4
    betas: Betas = (0.9, 0.999)
    temperature: float = 0.1  # SimCLRv2


@dataclass(frozen=True)
class PatchSettings(PretrainingSettings):
    """Patch level by its own objective: masked reconstruction on SAM + LoRA without dropping tokens. Table 7, second.

    Table 7's base rate 1.5e-4 is MAE's, per 256 samples: 3e-4 at a batch of 512.
    """

    epochs: int = 60
    batch: int = 512
    micro_batch: int | None = 64
    learning_rate: float = 3e-4
    weight_decay: float = 0.05
    betas: Betas = (0.9, 0.95)  # A.1
    masked_share: float = 0.6  # ours, see BootstrapSettings
    normalised: bool = True  # MAE: targets normalised patch by patch
    skip_flat: bool = False  # ours, see PatchTeacherSettings


@dataclass(frozen=True)
class PixelSettings(PretrainingSettings):
    """Pixel level: denoising with a U-Net decoder on SAM + LoRA, pure MSE (Eq. 1). Table 7, third column.

    ``dice``: share of a soft Dice of the intensities in the loss, the rest is MSE.
    """

    epochs: int = 30
    batch: int = 512
    micro_batch: int | None = 64
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    betas: Betas = (0.9, 0.99)  # A.1
    dice: float = 0.0  # Eq. 1; A.1's 0.9 is the wording of H-SAM's second stage


@dataclass(frozen=True)
class DistillationSettings(PretrainingSettings):
    """An expert that learns a teacher's features from the same view of the same slice (Eq. 1). Epochs: Table 7.

    ``feature``: one of the teacher's (None: its default). ``scale``: see ``objectives.distillation.scaled_target``.
    ``masked_share``: this share of the patches is hidden from both, and only visible tokens are compared (MAE only).
    ``view_count``: so many fixed views of each slice, whose targets are kept on disk (None: a new view every epoch).
    Rate, betas, decay and strength of the views are ours; LoRA does not decay.
    """

    epochs: int = 80
    batch: int = 512  # Table 7
    micro_batch: int | None = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    betas: Betas = (0.9, 0.95)
    feature: str | None = None
    scale: TargetScale = "channel"
    masked_share: float = 0.0
    view_count: int | None = None


# Image level: the pooled vector that the contrastive loss trained, standardised channel by channel.
DISTILLED_IMAGE = DistillationSettings(epochs=80, scale="channel")
# Patch level: all tokens behind the last norm, each normalised by itself (Feature Distillation, arXiv 2205.14141).
DISTILLED_PATCH = DistillationSettings(epochs=60, scale="token")
