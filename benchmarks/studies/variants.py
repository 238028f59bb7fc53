"""The variants of the label-efficiency study, one constant each. Nothing here was tuned on scans that are scored.

All variants of a scale share the backbone, its base weights, the input size, the batch and the augmentation; ``length``
multiplies the scale's epochs of fine-tuning. A variant changes one thing against the variant it is named after.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from samora_pipeline.errors import UsageError
from samora_pipeline.registry import nearest


@dataclass(frozen=True)
class Variant:
    """One row of the tables.

    ``settings`` are ``--set`` values, ``levels`` the experts (empty: the trainer's own), ``unlabeled`` more datasets of
    the pool. ``family`` chooses which of the scale's backbones is used.
    """

    name: str
    what: str
    trainer: str = "SAMoraTrainer"
    recipe: str = "scratch"
    levels: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    unlabeled: tuple[str, ...] = ()
    length: int = 1
    family: Literal["sam", "sam2"] = "sam"


@dataclass(frozen=True)
class NnunetVariant:
    """nnU-Net v2 from its own package, with its own plans, on the same labelled scans."""

    name: str
    what: str
    configuration: Literal["2d", "3d_fullres"]


def _fused(name: str, what: str, *settings: str) -> Variant:
    return Variant(name, what, settings=settings)


def _stage1(epochs: int, *stages: str) -> tuple[str, ...]:
    return tuple(f"{stage}.epochs={epochs}" for stage in stages)


_EXPERTS = ("expert_image", "expert_patch", "expert_pixel")
_TEACHERS = ("teacher_image", "teacher_patch")
_SAMED = {"trainer": "SAMedTrainer", "recipe": "none"}

_OWN = (
    # SAMed's code warms up for 250 steps of 14,880; within SAMora's number of steps that would be most of the run.
    Variant("samed", "SAMed, SAMora's number of steps", **_SAMED, settings=("finetune.warmup=25",)),  # type: ignore[arg-type]
    Variant("samed_x10", "SAMed, ten times SAMora's steps", **_SAMED, length=10),  # type: ignore[arg-type]
    Variant("samora_none", "SAMora, experts without effect", recipe="none"),
    Variant("samora_scratch", "SAMora, each expert by its own objective"),
    Variant("samora_x10", "SAMora, each expert by its own objective, ten times the steps", length=10),
    Variant("samora_nocpt", "SAMora, teachers as they are", recipe="nocpt"),
    Variant("samora_full", "SAMora, teachers trained on the pool", recipe="full"),
    Variant(
        "scratch_long",
        "SAMora, each expert by its own objective, 40 epochs",
        settings=_stage1(40, *_EXPERTS),
    ),
    Variant(
        "full_long",
        "SAMora, teachers trained on the pool, all for 40 epochs",
        recipe="full",
        settings=_stage1(40, *_TEACHERS, *_EXPERTS),
    ),
    _fused(
        "delta_block", "SAMora, residual delta, scope block", "model.fusion.residual=delta", "model.fusion.scope=block"
    ),
    _fused(
        "delta_attention",
        "SAMora, residual delta, scope attention",
        "model.fusion.residual=delta",
        "model.fusion.scope=attention",
    ),
    _fused(
        "paper_block", "SAMora, residual paper, scope block", "model.fusion.residual=paper", "model.fusion.scope=block"
    ),
    _fused(
        "paper_attention",
        "SAMora, residual paper, scope attention",
        "model.fusion.residual=paper",
        "model.fusion.scope=attention",
    ),
    Variant("image_only", "SAMora, image expert alone", levels=("image",)),
    Variant("patch_only", "SAMora, patch expert alone", levels=("patch",)),
    Variant("pixel_only", "SAMora, pixel expert alone", levels=("pixel",)),
    _fused("lac", "experts joined by LAC", "model.fusion.name=lac"),
    _fused("mole", "experts joined by MoLE", "model.fusion.name=mole"),
    _fused("lorahub", "experts joined by LoRAHub", "model.fusion.name=lorahub"),
    _fused("hcat", "experts joined by HCAT", "model.fusion.name=hcat"),
    Variant("samora_pool_ct", "SAMora, pool with OpenKBP's CT beside its own scans", unlabeled=("OpenKBP",)),
    Variant(
        "samora_pool_ct_only",
        "SAMora, pool of OpenKBP's CT alone",
        settings=("pool.own=false",),
        unlabeled=("OpenKBP",),
    ),
    Variant("hsam", "H-SAM, H-SAMora's number of steps", "HSAMTrainer", "none", settings=("finetune.warmup=25",)),
    Variant("hsamora", "H-SAMora", "HSAMoraTrainer"),
    Variant(
        "samed2",
        "SAMed-2, SAMora-2's number of steps",
        "SAMed2Trainer",
        "none",
        settings=("finetune.warmup=25",),
        family="sam2",
    ),
    Variant("samora2", "SAMora-2", "SAMora2Trainer", family="sam2"),
)

_NNUNET = (
    NnunetVariant("nnunet_2d", "nnU-Net v2, 2d", "2d"),
    NnunetVariant("nnunet_3d_fullres", "nnU-Net v2, 3d_fullres", "3d_fullres"),
)

VARIANTS: dict[str, Variant | NnunetVariant] = {variant.name: variant for variant in (*_OWN, *_NNUNET)}

MAIN = ("samed", "samed_x10", "samora_none", "samora_scratch", "samora_nocpt", "samora_full")
"""what is compared at every label budget; the others at the first one only"""


def find_variants(names: list[str]) -> tuple[Variant | NnunetVariant, ...]:
    """Return the variants of those names, in their order.

    Raises:
        UsageError: ``E-STUDY-01`` for a name that is no variant.
    """
    for name in names:
        if name not in VARIANTS:
            raise UsageError(
                "E-STUDY-01",
                f'the study has no variant "{name}"',
                found=name,
                expected=f"{nearest(name, list(VARIANTS))}{', '.join(VARIANTS)}",
            )
    return tuple(VARIANTS[name] for name in dict.fromkeys(names))
