"""From a request to the stages of a run: method, recipe, levels, backbone and settings, with ``--set`` applied.

``--set`` makes typed changes, refused when name or type is wrong. The options of an exchangeable part are named like
its other fields: ``model.fusion.temperature=2``.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any, get_type_hints

from samora_pipeline.contracts.json_io import parse, to_plain
from samora_pipeline.contracts.model_spec import FusionSpec, Level, ModelSpec, ModuleSpec, NetworkSpec
from samora_pipeline.contracts.options import read_value, split_assignment
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.random_steps import NoiseSpec
from samora_pipeline.contracts.run import Choice
from samora_pipeline.errors import UsageError
from samora_pipeline.models.catalog import BACKBONES, fusion_options
from samora_pipeline.registry import nearest
from samora_pipeline.slices.noise import noise_options
from trainers.consistency_settings import ConsistencySettings
from trainers.methods import ModelSettings, NetworkSettings, Trainer
from trainers.pool.datasets import PAPER, PAPER_POOL, PoolSettings
from trainers.recipes import BOOTSTRAP_BASE
from trainers.runs.folder import flat
from trainers.runs.request import Request, check_stage, choose_levels, choose_recipe, find_trainer, resolve
from trainers.settings import (
    BOOTSTRAP,
    FINETUNE,
    STAGE_NAMES,
    DenoisingSettings,
    FinetuneSettings,
    StageSettings,
)

OPTIONS = "options"
Leaves = dict[str, Any]


MODEL, POOL = "model", "pool"
INPUT_SIZE, MICRO_BATCH = f"{MODEL}.input_size", f"{FINETUNE}.micro_batch"
# The micro-batch of a device of 16 GiB: activations of one slice of 224 x 224 in ViT-B with four branches, trained in
# 32-bit floats, beside 2 GiB of weights (estimates).
_MEMORY_GIB, _FIXED_GIB, _SLICE_GIB = 16.0, 2.0, 0.75
_LARGEST_MICRO_BATCH = 32


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
        if name not in types_of:
            raise UsageError(
                "E-SET-01",
                hints=nearest(name, list(types_of)),
                hints2=", ".join(types_of),
                what=f'there is no setting "{name}"',
                found=name,
            )
        *folders, last = name.split(".")
        part = functools.reduce(lambda inner, folder: inner[folder], folders, plain)
        (part if last in part else part[OPTIONS])[last] = to_plain(read_value(name, text, types_of[name]))
    return {name: parse(type(value), plain[name], name) for name, value in settings.items()}


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
    model: ModelSettings | NetworkSettings
    pool: PoolSettings
    stages: dict[str, StageSettings]
    finetune: FinetuneSettings
    changes: Mapping[str, Any]
    unused: tuple[str, ...]


def choose_method(request: Request) -> Method:
    """Settle trainer, recipe, levels, backbone and settings.

    Raises:
        UsageError: ``E-ARG-..``, ``E-PRESET-..``, ``E-RECIPE-01``, ``E-STAGE-01``, ``E-NAME-01``, ``E-SET-..``.
    """
    request = resolve(request)
    trainer = find_trainer(request.trainer)
    backbone = request.backbone or trainer.backbone
    small = trainer.network is None and BACKBONES.get(backbone).small
    recipe = choose_recipe(trainer, request.recipe, small=small)
    levels = choose_levels(trainer, request.levels)
    stages = trainer.stages(recipe, levels, small=small)
    usually = stages[FINETUNE]
    stages[FINETUNE] = with_consistency(usually, request.consistency)
    if request.backbone_weights == BOOTSTRAP:
        stages = {BOOTSTRAP: BOOTSTRAP_BASE.small() if small else BOOTSTRAP_BASE, **stages}
    check_stage(request.stage, stages)
    pool = PAPER_POOL if PAPER in request.unlabeled else PoolSettings()
    default = {MODEL: trainer.model_for(small=small), POOL: pool, **stages}
    unused = tuple(
        one for one in request.assignments if one.partition("=")[0].partition(".")[0] in set(STAGE_NAMES) - set(stages)
    )
    settings = _with_parts(default, [one for one in request.assignments if one not in unused])
    asked = {
        "seed": (request.seed, 0),
        "recipe": (recipe, trainer.default_recipe(small=small)),
        "levels": (list(levels), list(trainer.levels)),
        "backbone": (backbone, trainer.backbone),
        "backbone_weights": (request.backbone_weights, None),
        "unlabeled": (sorted(request.unlabeled), []),
        "consistency": (stages[FINETUNE] != usually, False),
        "transductive": (request.transductive, False),
        "exclude_leaks": (request.exclude_leaks, False),
        "allow_leak": (sorted(request.allow_leak), []),
    }
    changes = {name: value for name, (value, usual) in asked.items() if value != usual}
    changes |= differences(settings, _with_parts(default, []))
    model, pool = settings.pop(MODEL), settings.pop(POOL)
    if request.fast:
        settings = {name: stage.short() for name, stage in settings.items()}
    return Method(trainer, recipe, levels, backbone, model, pool, settings, settings[FINETUNE], changes, unused)


def with_consistency(finetune: StageSettings, asked: bool | None) -> StageSettings:
    """The settings of stage 2 with or without slices without labels; None leaves them as they are."""
    if not isinstance(finetune, FinetuneSettings) or asked in (None, finetune.consistency is not None):
        return finetune
    return replace(finetune, consistency=ConsistencySettings() if asked else None)


def choose_sizes(
    method: Method, plans: Plans, earlier: Mapping[str, Choice]
) -> tuple[int, FinetuneSettings, dict[str, Choice]]:
    """Settle what nobody gave: the input size and the micro-batch.

    Args:
        method: what the request says.
        plans: the dataset's plan, which may prefer an input size.
        earlier: what the run chose when it was first started; that stays.

    Returns:
        The input size in pixels, the settings of stage 2, and the choices that were made.
    """
    choices: dict[str, Choice] = {}
    size = method.model.input_size
    if size is None:
        preferred, why = plans.input_size.value, plans.input_size.why
        usual = method.trainer.input_size
        choices[INPUT_SIZE] = earlier.get(INPUT_SIZE) or (usual if preferred is None else Choice(preferred, why))
        size = int(choices[INPUT_SIZE].value)
    finetune = method.finetune
    if finetune.micro_batch is None:
        choices[MICRO_BATCH] = earlier.get(MICRO_BATCH) or _fitting_micro_batch(size, finetune.consistency)
        finetune = replace(finetune, micro_batch=int(choices[MICRO_BATCH].value))
    return size, finetune, choices


def network_spec(method: Method, *, input_size: int, in_channels: int, num_outputs: int) -> NetworkSpec:
    """The network of a run; a single expert needs no fusion."""
    model = method.model
    if isinstance(model, NetworkSettings):
        return ModuleSpec(method.trainer.network or "", input_size, num_outputs, in_channels, model.options)
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
    fusion = settings.fusion
    if fusion.name != before.fusion.name:
        fusion = FusionSpec(fusion.name, fusion.scope)
    options = to_plain(fusion_options(fusion.name, fusion.options))
    return replace(settings, fusion=replace(fusion, options=options))


@_with_options.register
def _(settings: DenoisingSettings, before: DenoisingSettings) -> DenoisingSettings:
    noise = settings.noise if settings.noise.name == before.noise.name else NoiseSpec(settings.noise.name)
    return replace(settings, noise=replace(noise, options=to_plain(noise_options(noise))))


def _fitting_micro_batch(input_size: int, consistency: ConsistencySettings | None) -> Choice:
    """The micro-batch for a device of 16 GiB: what is left beside weights, over the need of a slice."""
    need = _SLICE_GIB * (input_size / 224) ** 2 * (consistency.passes if consistency else 1)
    fits = max(1, int((_MEMORY_GIB - _FIXED_GIB) / need))
    value = 1 << (min(fits, _LARGEST_MICRO_BATCH).bit_length() - 1)
    return Choice(
        value,
        f"({_MEMORY_GIB:g} - {_FIXED_GIB:g}) GiB / {need:.2f} GiB per slice of {input_size} x {input_size} "
        f"= {fits}, as a power of two of at most {_LARGEST_MICRO_BATCH}",
    )
