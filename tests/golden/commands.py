"""The runs that two commits are compared by: every trainer, every recipe, presets, and the parts few runs use."""

from __future__ import annotations

STAGES = ("bootstrap", "teacher_image", "teacher_patch", "expert_image", "expert_patch", "expert_pixel", "finetune")
RECIPES = ("scratch", "none", "nocpt", "full", "T1", "T2", "paper_literal")
OURS = ("SAMoraTrainer", "HSAMoraTrainer", "SAMora2Trainer")
OTHERS = ("SAMedTrainer", "SAMed2Trainer", "HSAMTrainer", "AutoSAMTrainer", "SAMAdapterTrainer")
INPUT_SIZE = 64
BATCH = 4

_TINY = ("--backbone", "samora_tiny")
_TINY_2 = ("--backbone", "samora2_tiny", "--backbone-weights", "bootstrap")


def _runs() -> dict[str, tuple[str, ...]]:
    """Trainer and options of each run by its name. The order matters: later runs reuse what earlier ones made."""
    return {
        "samora": ("SAMoraTrainer", *_TINY),
        "hsamora_full": ("HSAMoraTrainer", *_TINY, "--recipe", "full"),
        "samora_full": ("SAMoraTrainer", *_TINY, "--recipe", "full", "--set", "finetune.held_out=1"),
        "samora_none": ("SAMoraTrainer", *_TINY, "--recipe", "none"),
        "samora_nocpt": ("SAMoraTrainer", *_TINY, "--recipe", "nocpt"),
        "samora_t1": ("SAMoraTrainer", *_TINY, "--recipe", "T1"),
        "samora_t2": ("SAMoraTrainer", *_TINY, "--recipe", "T2"),
        "samora_literal": ("SAMoraTrainer", *_TINY, "--recipe", "paper_literal"),
        "hsamora_mole": ("HSAMoraTrainer", *_TINY, "--preset", "table4-mole"),
        "samora_lorahub": ("SAMoraTrainer", *_TINY, "--preset", "table4-lorahub"),
        "hsamora_image": ("HSAMoraTrainer", *_TINY, "--preset", "table15-image-scratch"),
        "samora_rank": ("SAMoraTrainer", *_TINY, "--preset", "table9-rank1", "--seed", "1"),
        "samora2": ("SAMora2Trainer", *_TINY_2),
        "samed2": ("SAMed2Trainer", *_TINY_2),
        "samed": ("SAMedTrainer", *_TINY),
        "hsam": ("HSAMTrainer", *_TINY),
        "autosam": ("AutoSAMTrainer", *_TINY),
        "sam_adapter": ("SAMAdapterTrainer", *_TINY),
    }


RUNS = _runs()


def plan_command(root: str) -> list[str]:
    """The words behind ``samora_plan_and_preprocess``."""
    return ["-d", "90", "--root", root, "--set", f"input_size={INPUT_SIZE}"]


def train_command(name: str, root: str) -> list[str]:
    """The words behind ``samora_train`` for a run of two steps a stage."""
    trainer, *options = RUNS[name]
    lengths = {"epochs": 1, "steps_per_epoch": 2, "batch": BATCH}
    short = [word for stage in STAGES for key, value in lengths.items() for word in ("--set", f"{stage}.{key}={value}")]
    return ["90", trainer, "2cases", "--root", root, "--device", "cpu", "--name", name, *options, *short]


def resolved_commands(root: str) -> dict[str, list[str]]:
    """Dry runs at full size by name: what a trainer and a recipe stand for, in numbers. No teacher need be there.

    The backbone is named, because it is chosen by the machine otherwise.
    """
    unread = [f"--set=teacher_{level}.weights=random" for level in ("image", "patch")]
    rows = {trainer: RECIPES if trainer == "SAMoraTrainer" else ("scratch", "full") for trainer in OURS}
    recipes = {f"{trainer} {recipe}": ("--recipe", recipe) for trainer in OURS for recipe in rows[trainer]}
    common = ("--root", root, "--device", "cpu")
    dry_runs: dict[str, tuple[str, ...]] = {**recipes, **dict.fromkeys(OTHERS, ())}
    return {
        name: ["90", name.split()[0], "2cases", *_full_size(name), *common, *options, *unread, "--dry-run"]
        for name, options in dry_runs.items()
    }


def _full_size(name: str) -> tuple[str, str]:
    return "--backbone", "sam2_hiera_b+" if name.split()[0].endswith("2Trainer") else "sam_vit_b"
