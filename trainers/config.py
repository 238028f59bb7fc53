"""How a run is trained: frozen settings, with the paper's numbers where it prints them (Table 8; Table 7 lies in
``pretraining_config``).

A comment says where a number is from; "ours" where the paper is silent or cannot be followed. ``--set
stage.name=value`` changes any of them (see ``overrides``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from samora_pipeline.contracts.model_spec import FusionSpec
from trainers.pool_rules import PoolSettings
from trainers.pretraining_config import (
    RANDOM_WEIGHTS,
    Betas,
    BootstrapSettings,
    DistillationSettings,
    ImageSettings,
    ImageTeacherSettings,
    PatchSettings,
    PatchTeacherSettings,
    PixelSettings,
    PretrainingSettings,
    check_settings,
)


@dataclass(frozen=True)
class ModelSettings:
    """The parts that an ablation exchanges. Rank 4: Table 9."""

    lora_rank: int = 4
    fusion: FusionSpec = field(default_factory=FusionSpec)
    decoder: str = "samed"


@dataclass(frozen=True)
class FinetuneSettings:
    """Stage 2 (Table 8, column SAMora; loss Eq. 9; learning rate Eq. 11).

    ``warmup`` counts iterations: 25 epochs would be longer than the run. ``schedule_epochs`` is the length of the
    schedule where it differs from the epochs that are run (SAMed stops early). The maximum of iterations in Eq. 11 is
    that of the schedule; the 18,600 in A.1 are SAMed's, of 200 epochs. ``loss_at``: ``decoder`` resizes the label to
    the logits, ``input`` the logits to the label. ``schedule``: Eq. 11 or, after the same warm-up, half a cosine.
    ``mask_tokens``: where the base has another number of outputs, ours start ``random`` or as copies of its tokens.
    Where a decoder has two stages each has both terms, weighed by ``objectives.segmentation.stage_weights``.
    """

    epochs: int = 20
    batch: int = 32
    micro_batch: int | None = None  # None: what plans.json found to fit
    learning_rate: float = 5e-3
    fusion_rate: float = 1.0  # times learning_rate, for the fusion; Table 8 has one rate for all
    weight_decay: float = 0.1
    betas: Betas = (0.9, 0.999)
    warmup: int = 25
    schedule: Literal["polynomial", "cosine"] = "polynomial"
    exponent: float = 1.0  # Eq. 11 as printed; SAMed and H-SAM have 0.9
    schedule_epochs: int | None = None
    steps_per_epoch: int | None = None
    cross_entropy: float = 0.2
    dice: float = 0.8
    loss_at: Literal["decoder", "input"] = "decoder"  # SAMed's code: low-resolution logits against a resized label
    mask_tokens: Literal["random", "copied"] = "random"  # SAMed's code
    clip_norm: float | None = None
    held_out: int = 0  # labelled cases kept out of training, on which post-processing is chosen; 0 leaves it off

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True)
class Settings:
    """All settings of a run. Besides ``model`` and ``pool``, the names of the fields are the names of the stages.

    The image and the patch expert learn by their own objective or from a teacher (``recipes``).
    """

    model: ModelSettings = field(default_factory=ModelSettings)
    pool: PoolSettings = field(default_factory=PoolSettings)
    bootstrap: BootstrapSettings = field(default_factory=BootstrapSettings)
    teacher_image: ImageTeacherSettings = field(default_factory=ImageTeacherSettings)
    teacher_patch: PatchTeacherSettings = field(default_factory=PatchTeacherSettings)
    expert_image: ImageSettings | DistillationSettings = field(default_factory=ImageSettings)
    expert_patch: PatchSettings | DistillationSettings = field(default_factory=PatchSettings)
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

# AutoSAM's main_autosam_seg.py: Adam (AdamW without decay), its rate, epochs and batch; cross-entropy and Dice weigh
# the same, at the size of the slice. Its rate falls where the loss of an epoch's last batch stops falling, after
# ten epochs; ours stays, because a plateau cannot be told from the step alone. Its Dice leaves out the background.
AUTOSAM = replace(
    SAMORA,
    model=ModelSettings(decoder="autosam"),
    finetune=FinetuneSettings(
        epochs=120,
        batch=4,
        learning_rate=5e-4,
        weight_decay=0.0,
        warmup=0,
        exponent=0.0,
        cross_entropy=0.5,
        dice=0.5,
        loss_at="input",
    ),
)

# SAM-Adapter's configs: AdamW with torch's own decay, rate, epochs, 2 slices on each of the four devices of its README;
# cosine from its training script; two terms of equal weight at input size, there for one class (BCE and IoU).
SAM_ADAPTER = replace(
    SAMORA,
    finetune=FinetuneSettings(
        epochs=20,
        batch=8,
        learning_rate=2e-4,
        weight_decay=0.01,
        warmup=0,
        schedule="cosine",
        cross_entropy=0.5,
        dice=0.5,
        loss_at="input",
    ),
)


_SHORT: dict[str, Any] = {"epochs": 4, "batch": 24, "micro_batch": None, "steps_per_epoch": 12}


def shrunk(settings: Settings) -> Settings:
    """Return the settings for the tiny backbones on a CPU (ours): short stages, small batches, the same objectives.

    Lengths are fixed in steps, so that a run takes minutes whatever the size of the pool. Experts are fused after
    the attention, which makes a step a fifth to a third cheaper than whole blocks. The loss is taken at input size:
    with logits of 32 to 56 pixels a side, resizing the labels instead would lose the small organs. Outputs start as
    copies of the base's: from random tokens, a few hundred steps may end before neighbouring structures part. On SAM
    the fusion has a tenth of the rate, without which it may run away; on SAM 2 that cost a third of the Dice
    (decision 99).
    """
    finetune = replace(
        settings.finetune,
        epochs=54,
        batch=8,
        schedule_epochs=None,
        warmup=25,
        steps_per_epoch=6,
        fusion_rate=1.0 if settings.model.decoder == "sam2" else 0.1,
        loss_at="input",
        mask_tokens="copied",
    )
    return replace(
        settings,
        model=replace(settings.model, fusion=replace(settings.model.fusion, scope="attention")),
        bootstrap=BootstrapSettings(epochs=12, batch=32, micro_batch=None, learning_rate=1e-3, steps_per_epoch=30),
        teacher_image=ImageTeacherSettings(
            network="simclr_tiny",
            weights=RANDOM_WEIGHTS,
            **{**_SHORT, "epochs": 6},
            optimizer="adamw",
            rate_rule="fixed",
            learning_rate=2e-3,
            temperature=0.2,
        ),
        teacher_patch=PatchTeacherSettings(
            network="mae_tiny", weights=RANDOM_WEIGHTS, **{**_SHORT, "epochs": 6}, rate_rule="fixed", learning_rate=2e-3
        ),
        expert_image=_shrunk_expert(settings.expert_image),
        expert_patch=_shrunk_expert(settings.expert_patch),
        # Measured on the phantom: at 2e-3 the restored slices are further from the clean ones than the noisy ones are.
        expert_pixel=PixelSettings(
            epochs=4,
            batch=8,
            micro_batch=None,
            learning_rate=1e-2,
            steps_per_epoch=12,
            dice=settings.expert_pixel.dice,
        ),
        finetune=finetune,
    )


def _shrunk_expert(settings: ImageSettings | PatchSettings | DistillationSettings) -> Any:
    """The stage of an image or patch expert, for a tiny backbone."""
    if isinstance(settings, ImageSettings):
        return ImageSettings(**_SHORT, learning_rate=2e-3, temperature=0.2)
    return replace(settings, **_SHORT, learning_rate=1e-2)


def shortened(settings: Settings) -> Settings:
    """Return the settings of ``--fast-dev-run``: two steps of every stage, on at most four slices each."""

    def short(stage: PretrainingSettings) -> dict[str, Any]:
        return {"epochs": 1, "steps_per_epoch": 2, "batch": min(stage.batch, 4)}

    finetune = settings.finetune
    stages: dict[str, PretrainingSettings] = {
        name: stage for name, stage in vars(settings).items() if isinstance(stage, PretrainingSettings)
    }
    return replace(
        settings,
        **{name: replace(stage, **short(stage)) for name, stage in stages.items()},  # type: ignore[arg-type]
        finetune=replace(finetune, epochs=1, steps_per_epoch=2, batch=min(finetune.batch, 4), schedule_epochs=None),
    )
