"""All methods on one page: what each is built on, its stages with the paper's numbers, what learns, and its loss.

A method is a list of stages. A *recipe* is the part of the list that makes the experts without labels (Tables 5, 7
and 12); the last stage is fine-tuning with labels (Table 8). The numbers of Table 7 describe the trainings of SimCLRv2,
MAE and the denoiser (A.1), so they are those of the teachers and of the pixel level; the two distillations, for which
the paper gives no settings, have its epochs and batch, and rates of ours. What a stage does is in its file in
``trainers.stages``; a method of one's own is a class like those below, used as ``package.module:Class``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from samora_pipeline.contracts.model_spec import LEVELS, DecoderStages, FusionSpec, Level
from samora_pipeline.registry import Registry
from trainers.settings import (
    EXPERT_IMAGE,
    EXPERT_PATCH,
    EXPERT_PIXEL,
    FINETUNE,
    LEVEL_OF,
    TEACHER_IMAGE,
    TEACHER_PATCH,
    BootstrapSettings,
    ContrastiveSettings,
    DenoisingSettings,
    DistillationSettings,
    FinetuneSettings,
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


RESIDUAL = "residual"
"""the option of fusions that has one form in the paper (Eq. 6-8) and another at small size (decision 133)"""


@dataclass(frozen=True)
class ModelSettings:
    """The parts of a SAM-shaped network that an ablation exchanges; ``input_size`` None is chosen for the run."""

    decoder: str
    input_size: int | None = None
    lora_rank: int = 4  # Table 9
    fusion: FusionSpec = field(default_factory=lambda: FusionSpec(options={RESIDUAL: "paper"}))
    decoder_stages: DecoderStages = "last"


@dataclass(frozen=True)
class NetworkSettings:
    """A network that is no SAM: the options of its class; ``input_size`` None is chosen for the run."""

    options: dict[str, Any]
    input_size: int | None = None


class Trainer:
    """A method. ``levels`` are the experts it has unless ``--levels`` says otherwise; the first recipe is the default.

    ``network`` is None for a network built on ``backbone``; any other is the ``package.module:Class`` of an
    ``nn.Module`` from images (B,C,N,N) to logits (B,K,n,n), with ``network_options`` as its keywords. It has no
    experts and no recipes, and all of it learns. ``block_adapters``: SAM-Adapter's, in front of every block.
    ``small_backbone`` takes the place of ``backbone`` where that cannot be had, or would train for days.
    """

    backbone: ClassVar[str] = "sam_vit_b"
    small_backbone: ClassVar[str] = "samora_tiny"
    model: ClassVar[ModelSettings] = ModelSettings(decoder="samed")
    network: ClassVar[str | None] = None
    network_options: ClassVar[Mapping[str, Any]] = {}
    levels: ClassVar[tuple[Level, ...]] = LEVELS
    recipes: ClassVar[tuple[str, ...]] = tuple(RECIPES)
    finetune: ClassVar[FinetuneSettings]
    block_adapters: ClassVar[bool] = False
    small_fusion_rate: ClassVar[float] = 0.1  # decision 99

    def default_recipe(self, *, small: bool) -> str:
        """The first recipe; on a small backbone ``scratch``, because its teachers have no public weights."""
        return SCRATCH if small and SCRATCH in self.recipes else self.recipes[0]

    def stages(self, recipe: str, levels: tuple[Level, ...], *, small: bool) -> dict[str, StageSettings]:
        """The stages of a run before ``--set``, in their order, without a bootstrap."""
        finetune = self.finetune
        if small:
            finetune = replace(finetune.small(), fusion_rate=self.small_fusion_rate)
        return {**RECIPES[recipe].for_levels(levels, small=small), FINETUNE: finetune}

    def model_for(self, *, small: bool) -> ModelSettings | NetworkSettings:
        """The parts before ``--set``. On a CPU experts are fused after the attention: a third of the cost of blocks.

        A fusion with a residual starts from the highest expert there, not from the base.
        """
        if self.network is not None:
            return NetworkSettings(dict(self.network_options))
        if not small:
            return self.model
        fusion = self.model.fusion
        options = {name: "delta" if name == RESIDUAL else value for name, value in fusion.options.items()}
        return replace(self.model, fusion=replace(fusion, scope="attention", options=options))


# What learns in stage 2. Like SAMed's and H-SAM's code the baselines count the whole prompt encoder as trained,
# although only ``no_mask_embed`` gets a gradient.
_FUSION_AND_DECODER = ("fusion", "decoder", "prompt", "adapter")
_LORA_AND_DECODER = ("experts", "decoder", "prompt", "prompt_unused", "adapter")


class SAMoraTrainer(Trainer):
    """The paper's method on SAM: experts and base are frozen in stage 2 (sections 3.2 and 3.3, Table 8).

    With recipe ``none`` the experts stay without effect: the control that has all parts but no pre-training.
    """

    finetune: ClassVar[FinetuneSettings] = FinetuneSettings(
        learns=_FUSION_AND_DECODER,
        epochs=20,
        batch=32,
        learning_rate=5e-3,
        cross_entropy=0.2,  # Eq. 9
        dice=0.8,
        weight_decay=0.1,
        warmup=25,
    )


class HSAMoraTrainer(SAMoraTrainer):
    """The paper's method on H-SAM (section 3.3, Table 8): only HL-Attn and both stages of the decoder learn.

    Its loss is H-SAM's (section 3.3), in each stage of the decoder, and like H-SAM's test script it predicts with the
    mean of both. The mask attention is the working one; ``--set model.decoder=hsam_released`` takes that of H-SAM's
    public code.
    """

    model = ModelSettings(decoder="hsam", decoder_stages="mean")
    finetune = replace(SAMoraTrainer.finetune, epochs=30, learning_rate=2.5e-3, cross_entropy=0.1, dice=0.9)


class SAMora2Trainer(SAMoraTrainer):
    """The paper's method on SAM 2 (sections 3.3 and 4.1): 25 epochs in Table 8 (20 in Table 3), all else as SAMora.

    Masked squares have 32 pixels a side and the pixel level reads the last tokens of Hiera's four stages.
    """

    backbone = "sam2_hiera_b+"
    small_backbone = "samora2_tiny"
    model = ModelSettings(decoder="sam2")
    finetune = replace(SAMoraTrainer.finetune, epochs=25)
    small_fusion_rate = 1.0  # a tenth cost a third of the Dice (decision 99)


class SAMedTrainer(Trainer):
    """SAMed (arXiv 2304.13785): one LoRA on SAM, trained with the labels together with the decoder.

    Its LoRA takes the place of one expert and starts without effect. Its code trains on 12 slices on each of two
    devices and stops at 160 of 200 planned epochs. Augmentation (A.3) and decay are SAMora's, so that the trainers
    differ in the method alone; ``--preset samed-released`` has its code's, and its 512 px.
    For a control with SAMora's budget: ``--set finetune.epochs=20 --set finetune.schedule_epochs=20 ...``.
    """

    levels = (Level.IMAGE,)
    recipes = (NO_PRETRAINING,)
    finetune = FinetuneSettings(
        learns=_LORA_AND_DECODER,
        epochs=160,
        schedule_epochs=200,
        batch=24,
        learning_rate=5e-3,
        cross_entropy=0.2,
        dice=0.8,
        weight_decay=0.1,
        warmup=250,
        exponent=0.9,
    )


class SAMed2Trainer(SAMedTrainer):
    """SAMed on SAM 2; "a similar approach to SAMed" (section 3.3), with its epochs (Table 3) and no public code.

    Its LoRA is as wide as the output of each block. The public LoRA codes for SAM 2 size it by the input, so that in
    the three blocks that change stage only half of q and half of v is adapted.
    """

    backbone = "sam2_hiera_b+"
    small_backbone = "samora2_tiny"
    model = SAMora2Trainer.model
    small_fusion_rate = 1.0


class HSAMTrainer(Trainer):
    """H-SAM (CVPR 2024, arXiv 2403.18271): one LoRA on SAM, trained with the labels together with a two-stage decoder.

    Its own few-shot run (ViT-B at 512 px): epochs, rate and 8 slices on each of two devices from its README, warm-up
    from its train.py, weight decay, betas and exponent from its trainer.py, 0.9 Dice from A.1. Rank 4 is that of both
    papers (section 4.1); its code defaults to 5. The decoder is H-SAMora's; the public code's own, whose mask
    attention is constant, is ``--set model.decoder=hsam_released`` at 224 or 512 px. ``--preset hsam-released`` has all
    of its code: augmentation, decay, rank, decoder and 512 px.
    """

    levels = (Level.IMAGE,)
    recipes = (NO_PRETRAINING,)
    model = HSAMoraTrainer.model
    finetune = FinetuneSettings(
        learns=_LORA_AND_DECODER,
        epochs=300,
        batch=16,
        learning_rate=2.5e-3,
        cross_entropy=0.1,
        dice=0.9,
        weight_decay=0.1,
        warmup=250,
        exponent=0.9,
    )


class AutoSAMTrainer(Trainer):
    """AutoSAM (Hu et al., arXiv 2306.13731): SAM's encoder as it is, and its mask decoder trained class by class.

    SAMora's table cites another paper for AutoSAM ([37], prompts made by a network) and has H-SAM's figures; the
    public code of this name is followed here (main_autosam_seg.py): Adam (AdamW without decay), its rate, epochs and
    batch; cross-entropy and Dice weigh the same, at the size of the slice. Its rate falls where the loss of an epoch's
    last batch stops falling, after ten epochs; ours stays, because a plateau cannot be told from the step alone. Its
    Dice leaves out the background.
    """

    levels = ()
    recipes = (NO_PRETRAINING,)
    model = ModelSettings(decoder="autosam")
    finetune = FinetuneSettings(
        learns=("decoder", "adapter"),
        epochs=120,
        batch=4,
        learning_rate=5e-4,
        cross_entropy=0.5,
        dice=0.5,
        weight_decay=0.0,
        warmup=0,
        exponent=0.0,
        loss_at="input",
    )


class SAMAdapterTrainer(Trainer):
    """SAM-Adapter (Chen et al., arXiv 2304.09148): small networks in front of every block of a frozen SAM encoder.

    Adapters, mask decoder and the embedding of having no mask learn. Its code segments one class; for more the mask
    decoder has one token per output, as SAMed's. From its configs: AdamW with torch's own decay, rate, epochs, 2 slices
    on each of the four devices of its README; from its training script: cosine; two terms of equal weight at input
    size, there for one class (BCE and IoU).
    """

    levels = ()
    recipes = (NO_PRETRAINING,)
    block_adapters = True
    finetune = FinetuneSettings(
        learns=("block_adapters", "decoder", "prompt", "adapter"),
        epochs=20,
        batch=8,
        learning_rate=2e-4,
        cross_entropy=0.5,
        dice=0.5,
        weight_decay=0.01,
        warmup=0,
        schedule="cosine",
        loss_at="input",
    )


TRAINERS: Registry[type[Trainer]] = Registry("trainer")
for _trainer in (
    *(SAMoraTrainer, SAMedTrainer, SAMora2Trainer, SAMed2Trainer),
    *(HSAMoraTrainer, HSAMTrainer, AutoSAMTrainer, SAMAdapterTrainer),
):
    TRAINERS.register(_trainer.__name__)(_trainer)
