"""How each stage is trained: frozen settings, with the paper's numbers where it prints them (Tables 7 and 8).

A comment says where a number is from; "ours" where the paper is silent or cannot be followed. ``--set
stage.name=value`` changes any of them (see ``overrides``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from samora_pipeline.contracts.model_spec import FusionSpec
from samora_pipeline.errors import UsageError
from trainers.pool_rules import PoolSettings

Betas = tuple[float, float]


@dataclass(frozen=True)
class ModelSettings:
    """The parts that an ablation exchanges. Rank 4: Table 9."""

    lora_rank: int = 4
    fusion: FusionSpec = field(default_factory=FusionSpec)
    decoder: str = "samed"


@dataclass(frozen=True)
class PretrainingSettings:
    """What all stages without labels share.

    ``steps_per_epoch`` shortens an epoch to a random part of the pool; None: every slice once. ``batch`` counts over
    all ranks and accumulation steps, ``micro_batch`` on one device at a time (None: never cut).

    Raises:
        UsageError: ``E-SET-04`` a length, size or rate that is not positive.
    """

    epochs: int
    batch: int
    micro_batch: int | None
    learning_rate: float
    weight_decay: float
    betas: Betas
    # "The first 5 % of epochs" (A.1). Table 7 prints 30/30/10 without a unit: as epochs that is half of the run.
    warmup_fraction: float = 0.05
    steps_per_epoch: int | None = None
    clip_norm: float | None = 1.0  # ours: bf16 masked modelling is known to spike without it

    def __post_init__(self) -> None:
        _check_positive(self)


def _check_positive(settings: PretrainingSettings | FinetuneSettings) -> None:
    for name in ("epochs", "batch", "micro_batch", "learning_rate", "steps_per_epoch", "schedule_epochs", "clip_norm"):
        value = getattr(settings, name, None)
        if value is not None and value <= 0:
            raise UsageError("E-SET-04", f"{name} must be positive", found=str(value), expected="more than 0")


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
class ImageSettings(PretrainingSettings):
    """Image level, recipe ``scratch``: NT-Xent on SAM + LoRA. Epochs, batch, weight decay: Table 7, first column.

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
    """Patch level, recipe ``scratch``: masked reconstruction on SAM + LoRA without dropping tokens. Table 7, second.

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


@dataclass(frozen=True)
class PixelSettings(PretrainingSettings):
    """Pixel level: denoising with a U-Net decoder on SAM + LoRA, pure MSE (Eq. 1). Table 7, third column."""

    epochs: int = 30
    batch: int = 512
    micro_batch: int | None = 64
    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    betas: Betas = (0.9, 0.99)  # A.1


@dataclass(frozen=True)
class FinetuneSettings:
    """Stage 2 (Table 8, column SAMora; loss Eq. 9; learning rate Eq. 11).

    ``warmup`` counts iterations: 25 epochs would be longer than the run. ``schedule_epochs`` is the length of the
    schedule where it differs from the epochs that are run (SAMed stops early). The maximum of iterations in Eq. 11 is
    that of the schedule; the 18,600 in A.1 are SAMed's, of 200 epochs. ``loss_at``: ``decoder`` resizes the label to
    the logits, ``input`` the logits to the label. Where a decoder has two stages each has both terms, weighed by
    ``objectives.segmentation.stage_weights``.
    """

    epochs: int = 20
    batch: int = 32
    micro_batch: int | None = None  # None: what plans.json found to fit
    learning_rate: float = 5e-3
    weight_decay: float = 0.1
    betas: Betas = (0.9, 0.999)
    warmup: int = 25
    exponent: float = 1.0  # Eq. 11 as printed; SAMed and H-SAM have 0.9
    schedule_epochs: int | None = None
    steps_per_epoch: int | None = None
    cross_entropy: float = 0.2
    dice: float = 0.8
    loss_at: Literal["decoder", "input"] = "decoder"  # SAMed's code: low-resolution logits against a resized label
    clip_norm: float | None = None
    held_out: int = 0  # labelled cases kept out of training, on which post-processing is chosen; 0 leaves it off

    def __post_init__(self) -> None:
        _check_positive(self)


@dataclass(frozen=True)
class Settings:
    """All settings of a run. Besides ``model`` and ``pool``, the names of the fields are the names of the stages."""

    model: ModelSettings = field(default_factory=ModelSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)
    expert_image: ImageSettings = field(default_factory=ImageSettings)
    expert_patch: PatchSettings = field(default_factory=PatchSettings)
    expert_pixel: PixelSettings = field(default_factory=PixelSettings)
    finetune: FinetuneSettings = field(default_factory=FinetuneSettings)


SAMORA = Settings()

# SAMed's code: 12 slices on each of two devices, 200 epochs planned and 160 run. Its augmentation (quarter turns or
# rotation by up to 20 degrees) is not repeated here: both trainers see A.3's, so that they differ in the method alone.
SAMED = replace(SAMORA, finetune=FinetuneSettings(epochs=160, batch=24, warmup=250, exponent=0.9, schedule_epochs=200))

# Table 8, column H-SAMora; each stage of the decoder with the weights of Eq. 9. The 0.9 Dice in A.1 is H-SAM's.
HSAMORA = replace(
    SAMORA, model=ModelSettings(decoder="hsam"), finetune=FinetuneSettings(epochs=30, learning_rate=2.5e-3)
)

# Table 8, column SAMora-2: 25 epochs (Table 3 says 20), "the only difference" (A.1).
SAMORA2 = replace(SAMORA, model=ModelSettings(decoder="sam2"), finetune=FinetuneSettings(epochs=25))

# Table 3 gives SAMed-2 the epochs of SAMed, and section 3.3 its approach; there is no code of its own to follow.
SAMED2 = replace(SAMED, model=SAMORA2.model)

# H-SAM's own few-shot run (ViT-B at 512 px): epochs, rate and 8 slices on each of two devices from its README, warm-up
# from its train.py, weight decay, betas and exponent from its trainer.py, 0.9 Dice from A.1. Rank 4 is that of both
# papers (section 4.1); its code defaults to 5. Its augmentation is not repeated, see SAMED.
HSAM = replace(
    HSAMORA,
    finetune=FinetuneSettings(
        epochs=300, batch=16, learning_rate=2.5e-3, warmup=250, exponent=0.9, cross_entropy=0.1, dice=0.9
    ),
)


def shrunk(settings: Settings) -> Settings:
    """Return the settings for the tiny backbones on a CPU (ours): short stages, small batches, the same objectives.

    Lengths are fixed in steps, so that a run takes minutes whatever the size of the pool. Experts are fused after
    the attention, which makes a step a fifth to a third cheaper than whole blocks. The loss is taken at input size:
    with logits of 32 to 56 pixels a side, resizing the labels instead would lose the small organs.
    """
    finetune = replace(
        settings.finetune, epochs=60, batch=8, schedule_epochs=None, warmup=25, steps_per_epoch=6, loss_at="input"
    )
    return replace(
        settings,
        model=replace(settings.model, fusion=replace(settings.model.fusion, scope="attention")),
        bootstrap=BootstrapSettings(epochs=12, batch=32, micro_batch=None, learning_rate=1e-3, steps_per_epoch=30),
        expert_image=ImageSettings(epochs=4, batch=24, learning_rate=2e-3, steps_per_epoch=12, temperature=0.2),
        expert_patch=PatchSettings(epochs=4, batch=24, micro_batch=None, learning_rate=2e-3, steps_per_epoch=12),
        expert_pixel=PixelSettings(epochs=4, batch=8, micro_batch=None, learning_rate=2e-3, steps_per_epoch=12),
        finetune=finetune,
    )


def shortened(settings: Settings) -> Settings:
    """Return the settings of ``--fast-dev-run``: two steps of every stage, on at most four slices each."""

    def short(stage: PretrainingSettings) -> dict[str, Any]:
        return {"epochs": 1, "steps_per_epoch": 2, "batch": min(stage.batch, 4)}

    finetune = settings.finetune
    return replace(
        settings,
        bootstrap=replace(settings.bootstrap, **short(settings.bootstrap)),
        expert_image=replace(settings.expert_image, **short(settings.expert_image)),
        expert_patch=replace(settings.expert_patch, **short(settings.expert_patch)),
        expert_pixel=replace(settings.expert_pixel, **short(settings.expert_pixel)),
        finetune=replace(finetune, epochs=1, steps_per_epoch=2, batch=min(finetune.batch, 4), schedule_epochs=None),
    )
