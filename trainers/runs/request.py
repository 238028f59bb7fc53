"""What the command line asked for, the checks that need neither data nor torch, and the paper's ablations by name.

Presets are Tables 3, 4, 5, 9, 10, 11, 12 and 15: ``samora_train 1 HSAMoraTrainer 10pct --preset table4-1-2-1`` is the
same run as with ``--set order=1-2-1``. Two more are the baselines as their authors released them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.errors import UsageError
from samora_pipeline.registry import closest, nearest, suggestion
from trainers.methods import TRAINERS, Trainer
from trainers.settings import STAGE_NAMES

T = TypeVar("T")
SHORT_NAMES = {
    "fusion": "model.fusion.name",
    "order": "model.fusion.order",
    "scope": "model.fusion.scope",
    "residual": "model.fusion.residual",
    "rank": "model.lora_rank",
    "decoder": "model.decoder",
    "decoder_stages": "model.decoder_stages",
    "input_size": "model.input_size",
}
"""what ``--set`` takes for settings that ablations change"""
_FUSION_PREFIX = "fusion."
OURS = ("SAMoraTrainer", "HSAMoraTrainer", "SAMora2Trainer")


@dataclass(frozen=True)
class Request:
    """The arguments of ``samora_train``; None stands for a default that depends on the others."""

    dataset: str
    trainer: str
    split: str
    fold: str | None = None
    recipe: str | None = None
    stage: str | None = None
    unlabeled: tuple[str, ...] = ()
    levels: tuple[str, ...] | None = None
    consistency: bool | None = None
    taught_by: tuple[str, ...] = ()
    start_from: str | None = None
    transductive: bool = False
    exclude_leaks: bool = False
    allow_leak: tuple[str, ...] = ()
    backbone: str | None = None
    backbone_weights: str | None = None
    seed: int = 0
    name: str | None = None
    assignments: tuple[str, ...] = ()
    preset: str | None = None
    minutes: float | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    resume: bool = False
    fast: bool = False


def find_trainer(name: str) -> Trainer:
    """Return the trainer called ``name``.

    Raises:
        UsageError: ``E-ARG-03``, which also explains the order of the arguments to those who know another tool's.
    """
    try:
        return TRAINERS.get(name)()
    except UsageError as error:
        found = error.found if ":" in name else name
        meant = closest(name, TRAINERS.names())
        hint = f"did you mean {meant}? " if meant else ""
        known = ", ".join(TRAINERS.names())
        typo = (name, meant) if meant else None
        raise UsageError("E-ARG-03", name=name, hint=hint, known=known, found=found, typo=typo) from error


def choose_recipe(trainer: Trainer, asked: str | None, *, small: bool, whole: bool = False) -> str:
    """Return the recipe, the trainer's default for the backbone where none is asked for.

    Raises:
        UsageError: ``E-RECIPE-01`` unknown, or not the trainer's.
    """
    if asked is None:
        return trainer.default_recipe(small=small, whole=whole)
    if asked in trainer.recipes:
        return asked
    near = suggestion(asked, trainer.recipes)
    fix = "the same command without --recipe" if len(trainer.recipes) == 1 else None
    raise UsageError("E-RECIPE-01", trainer=type(trainer).__name__, name=asked, found=asked, fix=fix, **near)


def choose_levels(trainer: Trainer, asked: tuple[str, ...] | None) -> tuple[Level, ...]:
    """Return the levels in their order, all of the trainer's by default.

    Raises:
        UsageError: ``E-ARG-06`` a level that the trainer does not have, or none at all.
    """
    if asked is None:
        return trainer.levels
    known = [level.value for level in trainer.levels]
    wrong = [name for name in asked if name not in known]
    if wrong or not asked:
        raise UsageError(
            "E-ARG-06",
            name=type(trainer).__name__,
            found=", ".join(wrong) or "nothing",
            expected=f"{(nearest(wrong[0], known) if wrong else '')}some of {','.join(known)}"
            if known
            else "no experts",
            fix=f"--levels {','.join(known)}" if known else "the same command without --levels",
            typo=suggestion(wrong[0], known)["typo"] if wrong else None,
        )
    return tuple(level for level in trainer.levels if level.value in asked)


def check_stage(stage: str | None, own: Iterable[str] = ()) -> None:
    """Refuse a ``--stage`` that does not exist, and is none of the method's ``own`` (``E-STAGE-01``)."""
    known = list(dict.fromkeys((*STAGE_NAMES, *own)))
    if stage is not None and stage not in known:
        raise UsageError("E-STAGE-01", name=stage, found=stage, **suggestion(stage, known))


@dataclass(frozen=True)
class Preset:
    """One row of a table, or (``table`` None) a method as its authors released it.

    ``trainers`` are those that the paper has in this row, ``also`` others that it can be used with. ``levels``,
    ``recipe`` and ``assignments`` are what it says on the command line; None: nothing.
    """

    table: int | None
    row: str
    trainers: tuple[str, ...]
    also: tuple[str, ...] = ()
    levels: tuple[str, ...] | None = None
    recipe: str | None = None
    assignments: tuple[str, ...] = ()


def resolve(request: Request) -> Request:
    """Put what a preset and short names stand for into the request; what ``--set`` says comes after the preset.

    Raises:
        UsageError: ``E-PRESET-01`` no such preset, ``E-PRESET-02`` not one of this trainer, ``E-ARG-09`` levels or
            recipe said twice.
    """
    preset = None if request.preset is None else _find(request.preset, request.trainer)
    levels: dict[str, tuple[str, ...] | None] = {"--levels": request.levels}
    recipes = {"--recipe": request.recipe}
    assignments: list[str] = []
    if preset is not None:
        levels["--preset"], recipes["--preset"] = preset.levels, preset.recipe
        assignments += preset.assignments
    for assignment in request.assignments:
        name, equals, value = assignment.partition("=")
        if equals and name == "levels":
            levels["--set levels"] = tuple(word for word in value.split(",") if word)
        elif equals and name == "recipe":
            recipes["--set recipe"] = value
        else:
            assignments.append(f"{_full_name(name)}{equals}{value}")
    return replace(request, preset=None, levels=_only(levels), recipe=_only(recipes), assignments=tuple(assignments))


def _full_name(name: str) -> str:
    return f"model.{name}" if name.startswith(_FUSION_PREFIX) else SHORT_NAMES.get(name, name)


def _only(said: Mapping[str, T | None]) -> T | None:
    """What one option says; two may not say anything."""
    given = {option: value for option, value in said.items() if value is not None}
    if len(given) > 1:
        first, second = list(given)[:2]
        raise UsageError("E-ARG-09", what=f"{first} and {second} do not go together", found="both")
    return next(iter(given.values()), None)


def _find(name: str, trainer: str) -> Preset:
    if name not in PRESETS:
        raise UsageError("E-PRESET-01", name=name, found=name, **suggestion(name, PRESETS))
    preset = PRESETS[name]
    allowed = (*preset.trainers, *preset.also)
    # A trainer of the user's own may be anything; what does not fit it is refused by name.
    if trainer not in allowed and ":" not in trainer:
        raise UsageError(
            "E-PRESET-02", name=name, trainer=trainer, allowed=allowed[0], found=trainer, expected=", ".join(allowed)
        )
    return preset


def _totals() -> Iterator[tuple[str, Preset]]:
    """Table 3: epochs and parameters. SAMed stops at 160 of 200 epochs by itself; SAMora-2 has 25 in Table 8."""
    rows = {
        "samed": ("SAMedTrainer", "200"),
        "samora": ("SAMoraTrainer", "20"),
        "samed-2": ("SAMed2Trainer", "200"),
        "samora-2": ("SAMora2Trainer", "20"),
        "h-sam": ("HSAMTrainer", "300"),
        "h-samora": ("HSAMoraTrainer", "30"),
    }
    for row, (trainer, epochs) in rows.items():
        yield row, Preset(3, f"{row}, {epochs} epochs", (trainer,), assignments=(f"finetune.epochs={epochs}",))


def _fusions(table: int) -> Iterator[tuple[str, Preset]]:
    """Tables 4 and 11: four fusions, and three orders of HL-Attn. Their 84.34 is H-SAMora's."""
    for fusion in ("lac", "mole", "lorahub", "hl_attn"):
        yield fusion, _fusion(table, fusion)
    for order in ("1-1-2", "1-2-1", "2-1-1"):
        yield order, replace(_fusion(table, f"HL-Attn, {order}"), assignments=(f"{SHORT_NAMES['order']}={order}",))


def _fusion(table: int, name: str) -> Preset:
    setting = (f"{SHORT_NAMES['fusion']}={name}",)
    return Preset(table, name, ("HSAMoraTrainer",), ("SAMoraTrainer", "SAMora2Trainer"), assignments=setting)


def _levels(table: int, trainers: tuple[str, ...]) -> Iterator[tuple[str, Preset]]:
    """Tables 5 and 15: one level alone, by its own objective, or from a teacher without and with CPT."""
    recipes = {"scratch": "scratch", "nocpt": "nocpt", "cpt": "full"}
    also = tuple(trainer for trainer in OURS if trainer not in trainers)
    for level in ("image", "patch", "pixel"):
        for row, recipe in recipes.items():
            if level != "pixel" or recipe == "scratch":
                yield f"{level}-{row}", Preset(table, f"{level}, {row}", trainers, also, (level,), recipe)


def _ranks() -> Iterator[tuple[str, Preset]]:
    """Table 9."""
    trainers = ("SAMedTrainer", "SAMoraTrainer", "SAMed2Trainer", "SAMora2Trainer", "HSAMTrainer", "HSAMoraTrainer")
    for rank in (1, 4, 16):
        yield f"rank{rank}", Preset(9, f"rank {rank}", trainers, assignments=(f"{SHORT_NAMES['rank']}={rank}",))


def _training_times() -> Iterator[tuple[str, Preset]]:
    """Table 12: less or no CPT, and a shorter distillation."""
    yield "h-sam", Preset(12, "h-sam", ("HSAMTrainer",))
    for recipe in ("T1", "T2", "full"):
        yield recipe, Preset(12, recipe, ("HSAMoraTrainer",), ("SAMoraTrainer", "SAMora2Trainer"), recipe=recipe)


_TABLES = {
    3: _totals(),
    4: _fusions(4),
    5: _levels(5, ("SAMoraTrainer",)),
    9: _ranks(),
    10: ((name, _fusion(10, name)) for name in ("hcat", "hl_attn")),
    11: _fusions(11),
    12: _training_times(),
    15: _levels(15, ("SAMoraTrainer", "HSAMoraTrainer")),
}


def _released(code: str, trainer: str, *more: str) -> Preset:
    """Augmentation, weight decay and input size of a public code; slices were stored at 224 px before (plan)."""
    augmentation = {"scheme": code, "contrast": "1,1", "brightness": "1,1"}
    assignments = [f"finetune.augmentation.{name}={value}" for name, value in augmentation.items()]
    assignments += ["finetune.decay=all", "model.input_size=512", *more]
    return Preset(None, f"{code} as released", (trainer,), assignments=tuple(assignments))


PRESETS = {f"table{table}-{row}": preset for table, rows in _TABLES.items() for row, preset in rows} | {
    "samed-released": _released("samed", "SAMedTrainer"),
    "hsam-released": _released("hsam", "HSAMTrainer", "model.decoder=hsam_released", "model.lora_rank=5"),
}
