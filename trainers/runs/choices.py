"""From a request to the stages of a run: method, recipe, levels, backbone and settings, with ``--set`` applied.

``--set`` makes typed changes, refused when name or type is wrong. The options of an exchangeable part are named like
its other fields: ``model.fusion.temperature=2``.
"""

import dataclasses
import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from types import MappingProxyType
from typing import Any, get_type_hints

from samora_pipeline.contracts.json_io import parse, to_plain
from samora_pipeline.contracts.model_spec import (
    FusionSpec,
    Level,
    ModelSpec,
    ModuleSpec,
    NetworkSpec,
    Volume,
    slices_seen,
)
from samora_pipeline.contracts.options import flat, read_value, split_assignment
from samora_pipeline.contracts.random_steps import NoiseSpec
from samora_pipeline.contracts.run import Choice
from samora_pipeline.errors import UsageError
from samora_pipeline.models.catalog import DECODERS, TEACHERS, fusion_options, is_small, is_trained_whole
from samora_pipeline.registry import suggestion
from samora_pipeline.slices.noise_catalog import noise_options
from trainers.consistency_settings import ConsistencySettings
from trainers.finetune_settings import FinetuneSettings
from trainers.methods import RESIDUAL, AnyModelSettings, ModelSettings, Trainer
from trainers.pool.datasets import PAPER, PAPER_POOL, PoolSettings
from trainers.recipes import BOOTSTRAP_BASE, NO_PRETRAINING
from trainers.runs.request import SHORT_NAMES, Request, check_stage, choose_levels, choose_recipe, find_trainer, resolve
from trainers.self_training_settings import SelfTrainingSettings
from trainers.semi_supervised_settings import UNLABELLED
from trainers.settings import (
    BOOTSTRAP,
    FINETUNE,
    STAGE_NAMES,
    DenoisingSettings,
    StageSettings,
    TeacherSettings,
)

OPTIONS = "options"
BASE_CHOICES = BACKBONE, BACKBONE_WEIGHTS, RECIPE = "backbone", "backbone_weights", "recipe"
CONSISTENCY = "consistency"
_WAY = f"{FINETUNE}.{CONSISTENCY}.kind"
Leaves = dict[str, Any]


MODEL, POOL = "model", "pool"


def apply_overrides(settings: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return ``settings`` (frozen dataclasses by name) with each ``name.to.field=value`` applied, in order.

    Values are written as in JSON or bare: ``20``, ``5e-3``, ``true``, ``none``, ``0.9,0.99``, ``hl_attn``.

    Raises:
        UsageError: ``E-SET-01`` an unknown name, with the nearest one; ``E-SET-02`` not of the form name=value;
            ``E-SET-03`` a value of another type.
    """
    types_of = {name: kind for part, value in settings.items() for name, kind in _types(part, value).items()}
    plain = {name: to_plain(value) for name, value in settings.items()}
    for assignment in assignments:
        name, text = split_assignment(assignment, "finetune.epochs=20")
        if name in (f"{MODEL}.input_size", f"{MODEL}.neighbours") and f"{MODEL}.volume" in types_of:
            expected = f"{MODEL}.volume=PLANES,ROWS,COLUMNS"
            fix = f"the same command without it, or with --set {MODEL}.volume=48,80,96"
            raise UsageError("E-SET-06", found=name, expected=expected, fix=fix)
        if name not in types_of:
            raise UsageError(
                "E-SET-01",
                what=f'there is no setting "{name}"',
                found=name,
                fix="the same command with --dry-run  prints all settings of the run",
                **suggestion(name, _settable(types_of)),
            )
        *folders, last = name.split(".")
        part = functools.reduce(lambda inner, folder: inner[folder], folders, plain)
        (part if last in part else part[OPTIONS])[last] = to_plain(read_value(name, text, types_of[name]))
    return {name: parse(type(value), plain[name], name) for name, value in settings.items()}


def _settable(names: Collection[str]) -> list[str]:
    """The names that ``--set`` takes: the short ones, then those of fine-tuning, which is meant most often."""
    short = [name for name, whole in SHORT_NAMES.items() if whole in names]
    return [*short, *sorted(names, key=lambda name: not name.startswith(FINETUNE))]


def differences(settings: Mapping[str, Any], default: Mapping[str, Any]) -> Leaves:
    """Return the settings that are not those of ``default``, by dotted name, as plain JSON."""
    mine, theirs = _leaves(settings), _leaves(default)
    return {name: value for name, value in mine.items() if name not in theirs or theirs[name] != value}


def _types(prefix: str, value: Any) -> Leaves:
    """Dotted names of all settings of a dataclass and their types; those of options are the types of their values."""
    found: Leaves = {}
    hints = get_type_hints(type(value))
    for field, inner in ((field, vars(value)[field.name]) for field in dataclasses.fields(value)):
        name = f"{prefix}.{field.name}"
        if field.name == OPTIONS:
            found |= {f"{prefix}.{option}": _type_of(given) for option, given in inner.items()}
        elif dataclasses.is_dataclass(inner):
            found |= _types(name, inner)
        else:
            found[name] = hints[field.name]
    return found


def _type_of(value: Any) -> Any:
    """The type of an option, from its value as plain JSON."""
    if value is None:
        return Any
    return tuple[Any, ...] if isinstance(value, list) else type(value)


def _leaves(settings: Mapping[str, Any]) -> Leaves:
    leaves = flat(to_plain(dict(settings)))
    return {name.replace(f".{OPTIONS}.", "."): leaf for name, leaf in leaves.items() if leaf != {}}


@dataclass(frozen=True)
class Method:
    """What a request says about the method; needs no data.

    ``stages`` are in their order. ``changes`` names everything that differs from the trainer's defaults, ``unused``
    assignments to stages that this run does not have.
    """

    trainer: Trainer
    recipe: str
    levels: tuple[Level, ...]
    backbone: str
    weights: str | None
    model: AnyModelSettings
    pool: PoolSettings
    stages: dict[str, StageSettings]
    finetune: FinetuneSettings
    changes: Mapping[str, Any]
    unused: tuple[str, ...]

    @property
    def from_random(self) -> bool:
        """Whether the base starts from random weights and has no file."""
        return self.weights is None and self.trainer.network is None and is_trained_whole(self.backbone)

    @property
    def small(self) -> bool:
        """Whether it is trained on a CPU in minutes; every network that is no SAM is."""
        return self.trainer.network is not None or is_small(self.backbone)


def choose_method(request: Request, chosen: Mapping[str, Choice] = MappingProxyType({})) -> Method:
    """Settle trainer, recipe, levels, backbone and settings.

    Args:
        request: what was typed.
        chosen: backbone, its weights, recipe and consistency where they were not (``automatic``); without them the
            trainer's own.

    Raises:
        UsageError: ``E-ARG-..``, ``E-PRESET-..``, ``E-RECIPE-01``, ``E-STAGE-01``, ``E-NAME-01``, ``E-SET-..``.
    """
    request = resolve(request)
    trainer = find_trainer(request.trainer)
    found = {name: str(choice.value) for name, choice in chosen.items()}
    backbone = request.backbone or found.get(BACKBONE, trainer.backbone)
    weights = request.backbone_weights or found.get(BACKBONE_WEIGHTS)
    small = trainer.network is None and is_small(backbone)
    whole = trainer.network is None and is_trained_whole(backbone)
    recipe = choose_recipe(trainer, request.recipe or found.get(RECIPE), small=small, whole=whole)
    if whole and weights is None and recipe != NO_PRETRAINING:
        # Experts are trained on a base that stays as it is meanwhile.
        weights = BOOTSTRAP
    levels = choose_levels(trainer, request.levels)
    if whole and recipe == NO_PRETRAINING and request.levels is None:
        # Experts without effect are no control where the base learns: they only cost time.
        levels = ()
    stages = trainer.stages(recipe, levels, small=small, whole=whole)
    usually = stages[FINETUNE]
    if CONSISTENCY in chosen:
        usually = with_unlabelled(usually, bool(chosen[CONSISTENCY].value))
    stages[FINETUNE] = with_unlabelled(usually, request.consistency, taught=bool(request.taught_by))
    way = next((one.partition("=")[2] for one in request.assignments if one.startswith(f"{_WAY}=")), None)
    stages[FINETUNE] = _by_way(stages[FINETUNE], way)
    if weights == BOOTSTRAP:
        stages = {BOOTSTRAP: BOOTSTRAP_BASE.small() if small else BOOTSTRAP_BASE, **stages}
    if request.start_from is not None:
        # The experts of that run are among its weights.
        stages = {name: own for name, own in stages.items() if name in (BOOTSTRAP, FINETUNE)}
    check_stage(request.stage, stages)
    pool = PAPER_POOL if PAPER in request.unlabeled else PoolSettings()
    default = {MODEL: trainer.model_for(small=small, whole=whole), POOL: pool, **stages}
    unused = tuple(
        one for one in request.assignments if one.partition("=")[0].partition(".")[0] in set(STAGE_NAMES) - set(stages)
    )
    applied = [one for one in request.assignments if one not in unused and not one.startswith(f"{_WAY}=")]
    settings = _with_parts(default, applied)
    usual = recipe if RECIPE in found else trainer.default_recipe(small=small, whole=whole)
    asked = {
        "seed": (request.seed, 0),
        "recipe": (request.recipe or recipe, usual),
        "levels": (list(levels) if request.levels else [], []),
        "backbone": (request.backbone or trainer.backbone, trainer.backbone),
        "backbone_weights": (request.backbone_weights, None),
        "unlabeled": (sorted(request.unlabeled), []),
        CONSISTENCY: (way or (request.consistency is not None and stages[FINETUNE] != usually), False),
        "taught_by": (sorted(request.taught_by), []),
        "start_from": (request.start_from, None),
        "transductive": (request.transductive, False),
        "exclude_leaks": (request.exclude_leaks, False),
        "allow_leak": (sorted(request.allow_leak), []),
    }
    changes = {name: value for name, (value, usual) in asked.items() if value != usual}
    changes |= differences(settings, _with_parts(default, []))
    model, pool = settings.pop(MODEL), settings.pop(POOL)
    if request.fast:
        settings = {name: stage.short() for name, stage in settings.items()}
    return Method(
        trainer, recipe, levels, backbone, weights, model, pool, settings, settings[FINETUNE], changes, unused
    )


def typed_settings(request: Request) -> frozenset[str]:
    """The dotted names of the settings that were typed, presets resolved."""
    return frozenset(assignment.partition("=")[0] for assignment in request.assignments)


def with_unlabelled(finetune: StageSettings, consistency: bool | None, *, taught: bool = False) -> StageSettings:
    """The settings of stage 2 with or without slices without labels; None leaves them as they are.

    Raises:
        UsageError: ``E-ARG-23`` both at once.
    """
    if not isinstance(finetune, FinetuneSettings):
        return finetune
    if taught:
        if consistency:
            raise UsageError("E-ARG-23", found="--consistency and --taught-by")
        return replace(finetune, consistency=None, self_training=SelfTrainingSettings())
    if consistency in (None, finetune.consistency is not None):
        return finetune
    return replace(finetune, consistency=ConsistencySettings() if consistency else None)


def _by_way(finetune: StageSettings, way: str | None) -> StageSettings:
    """The settings of stage 2 in which slices without labels take part in the way of this name; None changes nothing.

    Raises:
        UsageError: ``E-NAME-01`` no such way, ``E-ARG-23`` other runs teach as well.
    """
    if way is None or not isinstance(finetune, FinetuneSettings):
        return finetune
    if way not in UNLABELLED:
        kind = "way to use slices without labels"
        raise UsageError("E-NAME-01", kind=kind, name=way, found=way, **suggestion(way, UNLABELLED))
    if finetune.self_training is not None:
        raise UsageError("E-ARG-23", found=f"--set {_WAY}={way} and --taught-by")
    is_own = type(finetune.consistency) is UNLABELLED[way]
    return finetune if is_own else replace(finetune, consistency=UNLABELLED[way]())


def network_spec(
    method: Method, *, input_size: int, channels: int, num_outputs: int, volume: Volume | None = None
) -> NetworkSpec:
    """The network of a run on slices of so many channels; a single expert needs no fusion.

    ``volume``: see ``ModuleSpec``.
    """
    model = method.model
    in_channels = channels * slices_seen(model.neighbours)
    if not isinstance(model, ModelSettings):
        return ModuleSpec(
            method.trainer.network or "", input_size, num_outputs, in_channels, model.options, model.neighbours, volume
        )
    return ModelSpec(
        method.backbone,
        input_size=input_size,
        num_outputs=num_outputs,
        in_channels=in_channels,
        levels=method.levels,
        lora_rank=model.lora_rank,
        fusion=model.fusion if len(method.levels) > 1 else None,
        decoder=model.decoder,
        block_adapters=method.trainer.block_adapters,
        decoder_stages=model.decoder_stages,
        neighbours=model.neighbours,
    )


def _with_parts(settings: Mapping[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply ``--set``: first which parts there are, then their options, which belong to them."""
    named = [one for one in assignments if one.partition("=")[0].endswith(".name")]
    chosen = apply_overrides(settings, named)
    complete = {name: _with_options(value, settings[name]) for name, value in chosen.items()}
    applied = apply_overrides(complete, [one for one in assignments if one not in named])
    return {name: _with_options(value, value) for name, value in applied.items()}


@singledispatch
def _with_options(settings: Any, before: Any) -> Any:
    """Settings with every option of their exchangeable part, which keeps those of ``before`` where it is the same.

    Raises:
        UsageError: ``E-NAME-01`` no such part, ``E-SET-01``, ``E-SET-03`` options that it does not take.
    """
    return settings


@_with_options.register
def _(settings: ModelSettings, before: ModelSettings) -> ModelSettings:
    DECODERS.check(settings.decoder)
    fusion, kept = settings.fusion, before.fusion.options
    if fusion.name != before.fusion.name:
        # What fuses in steps begins at zero with either residual; a gate of experts would begin with twice the base.
        stepwise = {"order", RESIDUAL} <= to_plain(fusion_options(fusion.name, {})).keys()
        fusion = FusionSpec(
            fusion.name, fusion.scope, {RESIDUAL: kept[RESIDUAL]} if stepwise and RESIDUAL in kept else {}
        )
    options = to_plain(fusion_options(fusion.name, fusion.options))
    return replace(settings, fusion=replace(fusion, options=options))


@_with_options.register
def _(settings: DenoisingSettings, before: DenoisingSettings) -> DenoisingSettings:
    noise = settings.noise if settings.noise.name == before.noise.name else NoiseSpec(settings.noise.name)
    return replace(settings, noise=replace(noise, options=to_plain(noise_options(noise))))


@_with_options.register
def _(settings: TeacherSettings, before: TeacherSettings) -> TeacherSettings:
    TEACHERS.check(settings.network)
    return settings
