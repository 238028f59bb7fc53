"""All methods on one page: what each is built on, what learns from labels, with the paper's numbers, and its loss.

A method is a list of stages. A *recipe* (``trainers.recipes``) is the part of the list that makes the experts without
labels; the last stage is fine-tuning with labels (Table 8). A method of one's own is a class like those below, used as
``package.module:Class``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from samora_pipeline.contracts.model_spec import LEVELS, DecoderStages, FusionSpec, Level, Volume
from samora_pipeline.contracts.random_steps import AugmentationSettings
from samora_pipeline.registry import Registry
from trainers.finetune_settings import FinetuneSettings
from trainers.recipes import NO_PRETRAINING, RECIPES, SCRATCH
from trainers.settings import FINETUNE, StageSettings
from trainers.volume_settings import VOLUMES_TRAINED_WHOLE

RESIDUAL = "residual"
"""the option of fusions that has one form in the paper (Eq. 6-8) and another at small size (decision 133)"""


@dataclass(frozen=True)
class ModelSettings:
    """The parts of a SAM-shaped network that an ablation exchanges; ``input_size`` None is chosen for the run.

    ``neighbours``: slices on each side that are channels of the image too.
    """

    decoder: str
    input_size: int | None = None
    lora_rank: int = 4  # Table 9
    fusion: FusionSpec = field(default_factory=lambda: FusionSpec(options={RESIDUAL: "paper"}))
    decoder_stages: DecoderStages = "last"
    neighbours: int = 0


@dataclass(frozen=True)
class NetworkSettings:
    """A network that is no SAM: the options of its class; the others are those of ``ModelSettings``."""

    options: dict[str, Any]
    input_size: int | None = None
    neighbours: int = 0


@dataclass(frozen=True)
class VolumeNetworkSettings:
    """A network on whole volumes: the options of its class; ``volume`` None is chosen for the run."""

    options: dict[str, Any]
    volume: Volume | None = None

    # A volume holds them all.
    neighbours: ClassVar[int] = 0


AnyModelSettings = ModelSettings | NetworkSettings | VolumeNetworkSettings


# Ours: what a few minutes of one processor core allow. Geometry is stronger than A.3's, but for flips: a network that
# starts from nothing spends its few steps on scans as they lie (decision 121).
TRAINED_WHOLE = FinetuneSettings(
    learns=("network",),
    epochs=50,
    steps_per_epoch=8,
    batch=16,
    micro_batch=16,
    learning_rate=1e-3,
    cross_entropy=0.5,
    dice=0.5,
    weight_decay=1e-2,
    warmup=50,
    schedule="cosine",
    loss_at="input",
    clip_norm=5.0,
    foreground_prior=0.05,
    augmentation=AugmentationSettings(rotation=22.5, flip=0.0, scale=(0.8, 1.2)),
)
_FAMILIES_OWN = ("samed", "sam2")
"""decoders that stand for the mask decoder of the backbone's family"""


class Trainer:
    """A method. ``levels`` are the experts it has unless ``--levels`` says otherwise; the first recipe is the default.

    ``network`` is None for a network built on ``backbone``; any other is the ``package.module:Class`` of an
    ``nn.Module`` from images (B,C,N,N) to logits (B,K,n,n), with ``network_options`` as its keywords. It has no
    experts and no recipes, and all of it learns. With ``takes_volumes`` it goes from whole volumes (B,C,D,H,W) to
    logits of their size, and ``finetune`` are ``VolumeFinetuneSettings``. ``block_adapters``: SAM-Adapter's, in front
    of every block. ``small_backbone`` takes the place of ``backbone`` where that cannot be had, or would train for
    days; ``whole_backbone``, trained whole and without experts, that of ``small_backbone`` where no experts are named.
    """

    backbone: ClassVar[str] = "sam_vit_b"
    small_backbone: ClassVar[str] = "samora_tiny"
    whole_backbone: ClassVar[str | None] = None
    model: ClassVar[ModelSettings] = ModelSettings(decoder="samed")
    network: ClassVar[str | None] = None
    network_options: ClassVar[Mapping[str, Any]] = {}
    takes_volumes: ClassVar[bool] = False
    levels: ClassVar[tuple[Level, ...]] = LEVELS
    recipes: ClassVar[tuple[str, ...]] = tuple(RECIPES)
    finetune: ClassVar[FinetuneSettings]
    block_adapters: ClassVar[bool] = False
    small_fusion_rate: ClassVar[float] = 0.1  # decision 99

    def default_recipe(self, *, small: bool, whole: bool = False) -> str:
        """The first recipe; on a small backbone ``scratch``, because its teachers have no public weights.

        On one that is trained ``whole`` from random weights: none, which leaves nothing for experts to be trained on.
        """
        if whole and NO_PRETRAINING in self.recipes:
            return NO_PRETRAINING
        return SCRATCH if small and SCRATCH in self.recipes else self.recipes[0]

    def stages(
        self, recipe: str, levels: tuple[Level, ...], *, small: bool, whole: bool = False
    ) -> dict[str, StageSettings]:
        """The stages of a run before ``--set``, in their order, without a bootstrap."""
        finetune = self.finetune
        if whole:
            finetune = replace(TRAINED_WHOLE, learns=(*finetune.learns, "base", *(("experts",) if levels else ())))
        elif small:
            finetune = replace(finetune.small(), fusion_rate=self.small_fusion_rate)
        return {**RECIPES[recipe].for_levels(levels, small=small), FINETUNE: finetune}

    def model_for(self, *, small: bool, whole: bool = False) -> AnyModelSettings:
        """The parts before ``--set``. On a CPU experts are fused after the attention: a third of the cost of blocks.

        A fusion with a residual starts from the highest expert there, not from the base.
        """
        if self.network is not None:
            kind = VolumeNetworkSettings if self.takes_volumes else NetworkSettings
            return kind(dict(self.network_options))
        skips = whole and self.model.decoder in _FAMILIES_OWN
        if not small and not skips:
            return self.model
        fusion = self.model.fusion
        options = {name: "delta" if name == RESIDUAL else value for name, value in fusion.options.items()}
        decoder = "skips" if skips else self.model.decoder
        return replace(self.model, decoder=decoder, fusion=replace(fusion, scope="attention", options=options))


# What learns in stage 2. Like SAMed's and H-SAM's code the baselines count the whole prompt encoder as trained,
# although only ``no_mask_embed`` gets a gradient.
_FUSION_AND_DECODER = ("fusion", "decoder", "prompt", "adapter")
_LORA_AND_DECODER = ("experts", "decoder", "prompt", "prompt_unused", "adapter")


class SAMoraTrainer(Trainer):
    """The paper's method on SAM: experts and base are frozen in stage 2 (sections 3.2 and 3.3, Table 8).

    With recipe ``none`` the experts stay without effect: the control that has all parts but no pre-training. On
    ``samora_small``, which is trained whole, there are none unless a recipe is typed (decision 145).
    """

    whole_backbone: ClassVar[str | None] = "samora_small"
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

    whole_backbone = None  # samora_small has no mask decoder of SAM's for H-SAM's second stage
    model = ModelSettings(decoder="hsam", decoder_stages="mean")
    finetune = replace(SAMoraTrainer.finetune, epochs=30, learning_rate=2.5e-3, cross_entropy=0.1, dice=0.9)


class SAMora2Trainer(SAMoraTrainer):
    """The paper's method on SAM 2 (sections 3.3 and 4.1): 25 epochs in Table 8 (20 in Table 3), all else as SAMora.

    Masked squares have 32 pixels a side and the pixel level reads the last tokens of Hiera's four stages.
    """

    backbone = "sam2_hiera_b+"
    small_backbone = "samora2_tiny"
    whole_backbone = None
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

    whole_backbone: ClassVar[str | None] = "samora_small"
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
    whole_backbone = None
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


class UNetTrainer(Trainer):
    """A 2-D U-Net of 1.9 M parameters, trained whole from random weights: what labels alone give without any SAM.

    All settings are ours: they are what a few minutes of one processor core allow. Geometry is stronger than A.3's, but
    for flips: a network that starts from nothing spends its few steps on scans as they lie (decision 121).
    """

    network = "unet2d"
    network_options: ClassVar[Mapping[str, Any]] = {"widths": [16, 32, 64, 128, 256], "momentum": 0.05}
    levels = ()
    recipes = (NO_PRETRAINING,)
    finetune = TRAINED_WHOLE


class UNet3DTrainer(Trainer):
    """A 3-D U-Net of 1.4 M parameters on whole volumes at a reduced resolution, trained from random weights.

    What users of nnU-Net compare with: context in all directions, at many times the cost of a step on slices.
    """

    network = "unet3d"
    network_options: ClassVar[Mapping[str, Any]] = {"widths": [16, 32, 64, 128]}
    takes_volumes = True
    levels = ()
    recipes = (NO_PRETRAINING,)
    finetune = VOLUMES_TRAINED_WHOLE


TRAINERS: Registry[type[Trainer]] = Registry("trainer")
for _trainer in (
    *(SAMoraTrainer, SAMedTrainer, SAMora2Trainer, SAMed2Trainer),
    *(HSAMoraTrainer, HSAMTrainer, AutoSAMTrainer, SAMAdapterTrainer, UNetTrainer),
    UNet3DTrainer,
):
    TRAINERS.register(_trainer.__name__)(_trainer)
for _name in (
    *("TransUNetTrainer", "UNETR2DTrainer", "SwinUNETR2DTrainer"),
    *("UAMTTrainer", "DTCTrainer", "MCNetTrainer", "SSNetTrainer"),
):
    TRAINERS.register_place(_name, f"trainers.rivals:{_name}")
