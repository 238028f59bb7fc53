"""What a run shows in the tables of the SAMora paper: its name there, and the value of each column.

Dice is in percent, as in the paper; every value is a list with one entry per run, because seeds (and, for the seconds
per volume, datasets) are averaged in a cell.
"""

from collections.abc import Iterable
from statistics import fmean

from samora_pipeline.contracts.model_spec import LEVELS, FusionSpec, Level, ModuleSpec
from samora_pipeline.contracts.pool import PAPER_NAMES, PAPER_SLICES
from samora_pipeline.contracts.run import PHANTOM_FLAG, PoolRecord
from samora_pipeline.contracts.splits import OFFICIAL
from samora_pipeline.errors import SamoraError
from samora_pipeline.evaluation.comparison import Protocol, distance_unit, sides
from samora_pipeline.evaluation.reported import reported
from samora_pipeline.evaluation.run_scores import ScoredRun

MEAN_DICE = "Mean Dice"
SECONDS = "Inference time (s)"
H_SAMORA = "H-SAMora"

METHODS = {
    "SAMoraTrainer": "SAMora",
    "SAMora2Trainer": "SAMora-2",
    "HSAMoraTrainer": H_SAMORA,
    "SAMedTrainer": "SAMed",
    "SAMed2Trainer": "SAMed-2",
    "HSAMTrainer": "H-SAM",
    "SAMAdapterTrainer": "SAM Adapter",
    "AutoSAMTrainer": "AutoSAM",
    "nnunet": "nnUnet",
    "TransUNetTrainer": "TransUNet",
    "UNETR2DTrainer": "UNETR, on slices, ours",
    "SwinUNETR2DTrainer": "Swin UNETR, on slices, ours",
    "UAMTTrainer": "UA-MT, 2-D U-Net, ours",
    "DTCTrainer": "DTC, 2-D U-Net, ours",
    "MCNetTrainer": "MC-Net, 2-D U-Net, ours",
    "SSNetTrainer": "SS-Net, 2-D U-Net, ours",
}
"""names of the trainers in the paper's tables"""
PRETRAINED = frozenset({"SAMora", "SAMora-2", H_SAMORA})
"""those that learn from the paper's pool without labels"""
# Cross-entropy and Dice: Eq. 9; section 3.3 takes H-SAM's for H-SAMora (decision 132).
_LOSSES = dict.fromkeys(("SAMora", "SAMora-2", "SAMed", "SAMed-2"), (0.2, 0.8))
_LOSSES |= dict.fromkeys(("H-SAM", H_SAMORA), (0.1, 0.9))
_BASELINES = frozenset({"SAMed", "SAMed-2", "H-SAM"})
_FUSIONS = {"hl_attn": "HL-Attn", "lac": "LAC", "mole": "MOLE", "lorahub": "LoRAHub", "hcat": "HCAT"}
_RECIPES = {
    "scratch": "Scratch",
    "nocpt": "T-S (w/o CPT)",
    "T1": "T-S (w/o CPT)",
    "T2": "T-S (w/ CPT)",
    "full": "T-S (w/ CPT)",
}
_PHASES = {"CPT (h)": ("teacher_",), "Pre-training (h)": ("bootstrap", "expert_"), "Fine-tuning (h)": ("finetune",)}

Cells = dict[str, list[float]]


def method(run: ScoredRun) -> str:
    """The method's name in the paper, else the trainer's own."""
    trainer = run.config.trainer
    return METHODS.get(trainer, trainer.removesuffix("Trainer"))


def dataset(run: ScoredRun) -> str:
    """The dataset's name without its number."""
    return run.config.dataset.partition("_")[2] or run.config.dataset


def budget(run: ScoredRun) -> str:
    """The label budget: ``10%``, ``full``, or the split's own name; a published list of slices is its share."""
    split = run.config.split
    if run.config.selection.published and split.endswith("pct_slices"):
        split = split.removesuffix("_slices")
    return f"{split.removesuffix('pct')}%" if split.endswith("pct") else split


def budget_column(run: ScoredRun) -> str:
    """The heading under which Tables 2, 11 and 14 list the run: ``10% Synapse``."""
    return f"{budget(run)} {dataset(run)}"


def as_published(run: ScoredRun) -> bool:
    """Whether the run was scored on the cases of a published split, so that a reported value may stand beside it."""
    return run.folds == (OFFICIAL,) and PHANTOM_FLAG not in run.warnings


def deviations(run: ScoredRun) -> dict[str, str]:
    """What the run does otherwise than the paper's default setting, by choice; an empty dict where nothing is known."""
    config, name = run.config, method(run)
    spec, own = config.model, name in PRETRAINED
    if isinstance(spec, ModuleSpec):
        return _of_a_network(run)
    found = {
        "backbone": (spec.backbone, "sam2_hiera_b+" if name.endswith("-2") else "sam_vit_b"),
        "input": (f"input of {spec.input_text}", "input of 224 px"),
        "rank": (f"rank {spec.lora_rank}", "rank 4"),
        "base": (f"base {config.base.origin if config.base else 'none'}", "base public"),
    }
    if own:
        found |= {
            "recipe": (f"recipe {config.recipe}", "recipe full"),
            "levels": (f"levels {', '.join(spec.levels) or 'none'}", f"levels {', '.join(LEVELS)}"),
            "fusion": (" ".join(fusion(run)), "2 1 1 HL-Attn"),
        }
        if spec.fusion is not None and len(spec.levels) > 1 and spec.fusion.name == "hl_attn":
            found["equations"] = (_equations(spec.fusion), "scope block, residual paper")
        if config.recipe != "none" and spec.levels:
            found["pool"] = (_pool(config.pool), "")
    if spec.decoder.startswith("hsam"):
        found["stages"] = (f"decoder stages {spec.decoder_stages}", "decoder stages mean")
    found |= _training(run, name)
    if config.selection.published and config.selection.unit == "cases":
        found["labels"] = ("all slices of the labelled scans", "")
    return {choice: is_ for choice, (is_, should_be) in found.items() if is_ != should_be}


def _of_a_network(run: ScoredRun) -> dict[str, str]:
    """What a network that is no SAM does otherwise than its authors, whose values the paper prints."""
    if run.config.stage("external") is not None:
        return {}
    record = run.config.stage("finetune")
    start = "" if record is not None and record.settings.get("weights") else ", from random weights"
    found = {"training": f"optimizer, length and augmentation of this package{start}"}
    return (
        found if run.config.model.input_size == 224 else {"input": f"input of {run.config.model.input_text}", **found}
    )


def _training(run: ScoredRun, name: str) -> dict[str, tuple[str, str]]:
    """Loss, length and use of slices without labels of stage 2: what they are, and what they are in the paper."""
    record = run.config.stage("finetune")
    epochs = reported(3, (name,), "Fine-tuning epochs")
    if record is None or name not in _LOSSES or epochs is None:
        return {}
    settings, steps = record.settings, record.settings["steps_per_epoch"]
    length = f"{settings['epochs']} epochs" + (f" of at most {steps} steps" if steps else "")
    parts = _LOSSES[name]
    return {
        "loss": (_loss(settings["cross_entropy"], settings["dice"]), _loss(*parts)),
        "epochs": (length, f"{epochs.value if epochs.also is None else epochs.also:g} epochs"),
        "unlabelled": ("consistency with slices without labels" if settings["consistency"] else "", ""),
        "taught": ("soft labels of other runs" if settings["self_training"] else "", ""),
    }


def _loss(cross_entropy: float, dice: float) -> str:
    return f"loss {cross_entropy:g} cross-entropy + {dice:g} Dice"


def experts(run: ScoredRun) -> tuple[Level, ...]:
    """The levels that have an expert; the one LoRA of SAMed and H-SAM takes a place in the network and is none."""
    return () if method(run) in _BASELINES else run.config.model.levels


def _equations(spec: FusionSpec) -> str:
    from samora_pipeline.models.catalog import fusion_options

    return f"scope {spec.scope}, residual {fusion_options(spec.name, spec.options).residual}"


def _pool(pool: PoolRecord) -> str:
    """What stage 1 learned from; empty for the paper's pool."""
    names = [name.partition("_")[2] or name for name in pool.cases]
    if (frozenset(names), pool.slices, pool.intensity) == (PAPER_NAMES, PAPER_SLICES, "fed_menu"):
        return ""
    slices = "" if pool.slices is None else f"{pool.slices} slices of "
    return f"pool of {slices}{sum(map(len, pool.cases.values()))} scans ({', '.join(names)})"


def fusion(run: ScoredRun) -> tuple[str, str, str, str]:
    """Image, patch and pixel level as Tables 4 and 11 show them (HL-Attn by its order), and the fusion's name."""
    spec = run.config.model
    image, patch, pixel = ("✓" if level in experts(run) else "×" for level in LEVELS)
    if spec.fusion is None or len(spec.levels) < 2:
        return image, patch, pixel, "none"
    if spec.fusion.name == "hl_attn" and len(spec.levels) == len(LEVELS):
        from samora_pipeline.models.catalog import fusion_options

        image, patch, pixel = fusion_options(spec.fusion.name, spec.fusion.options).order.split("-")
    return image, patch, pixel, _FUSIONS.get(spec.fusion.name, spec.fusion.name)


def origins(run: ScoredRun) -> tuple[str, str, str]:
    """How each level's expert was trained, as Tables 5 and 15 say it. The pixel level never has a teacher."""

    def origin(level: Level) -> str:
        if level not in experts(run):
            return "×"
        recipe = run.config.recipe
        pixel_scratch = level is Level.PIXEL and recipe in _RECIPES
        return "Scratch" if pixel_scratch else _RECIPES.get(recipe, recipe)

    image, patch, pixel = (origin(level) for level in LEVELS)
    return image, patch, pixel


def mean_dice(run: ScoredRun, protocol: Protocol, name: str = MEAN_DICE) -> Cells:
    """The mean over the organs, in percent."""
    return _percent(name, sides(run.summary)[protocol].foreground_mean.Dice)


def organs(run: ScoredRun, protocol: Protocol) -> Cells:
    """Dice of every organ in percent, their mean, and HD95 in the unit of the protocol."""
    side = sides(run.summary)[protocol]
    cells: Cells = {}
    for key, name in run.summary.labels.items():
        cells |= _percent(name.replace("_", " ").title(), side.mean[key].Dice)
    cells |= mean_dice(run, protocol)
    # The paper calls it HD.
    return cells | _mean(f"HD95 {distance_unit(run.summary, protocol)}", [side.foreground_mean.HD95])


def seconds(run: ScoredRun) -> Cells:
    """Seconds per volume from file to file, the mean over the folds."""
    return _mean(SECONDS, (one.seconds_per_volume for one in run.timings))


def hours(run: ScoredRun) -> Cells:
    """Hours by the clock of each phase, the mean over the folds; a phase that another run made counts as well."""
    cells: Cells = {}
    for name, stages in _PHASES.items():
        spent = [
            sum(timing.seconds for stage, timing in one.stages.items() if stage.startswith(stages)) / 3600
            for one in run.timings
        ]
        cells |= _mean(name, (value or None for value in spent))
    return cells


def machine(run: ScoredRun) -> str:
    """Where the run was timed: ``cuda, 8 processes``."""
    return "; ".join(
        dict.fromkeys(f"{one.device}, {one.ranks} process{'es' * (one.ranks != 1)}" for one in run.timings)
    )


def epochs(run: ScoredRun) -> Cells:
    """Epochs of fine-tuning that were run."""
    return _mean(
        "Fine-tuning epochs", (one.stages["finetune"].epochs for one in run.timings if "finetune" in one.stages)
    )


def parameters(run: ScoredRun) -> Cells:
    """All parameters of the network in millions; empty where a part of it comes from code that is not installed."""
    import torch

    from samora_pipeline.models.assembly import build_network

    try:
        with torch.device("meta"):
            count = sum(parameter.numel() for parameter in build_network(run.config.model).parameters())
    except SamoraError:
        return {"Total parameters (M)": []}
    return {"Total parameters (M)": [count / 1e6]}


def _percent(name: str, value: float | None) -> Cells:
    return {name: [] if value is None else [100 * value]}


def _mean(name: str, values: Iterable[float | None]) -> Cells:
    defined = [value for value in values if value is not None]
    return {name: [fmean(defined)] if defined else []}
