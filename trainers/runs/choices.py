"""From a request to the stages of a run: method, recipe, levels, backbone and settings, with defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.level import Level
from samora_pipeline.contracts.model_spec import FusionSpec, ModelSpec, ModuleSpec, NetworkSpec
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.random_steps import NoiseSpec
from samora_pipeline.contracts.run import Choice
from samora_pipeline.models.backbones.catalog import BACKBONES
from samora_pipeline.models.fusions.catalog import fusion_options
from samora_pipeline.slices.noise import noise_options
from trainers.methods import BOOTSTRAP_BASE, ModelSettings, NetworkSettings, Trainer
from trainers.pool.rules import PAPER_POOL, PoolSettings
from trainers.pool.sources import PAPER
from trainers.runs.overrides import apply_overrides, differences
from trainers.runs.presets import resolve
from trainers.runs.request import Request, check_stage, choose_levels, choose_recipe, find_trainer
from trainers.settings import (
    BOOTSTRAP,
    FINETUNE,
    STAGE_NAMES,
    DenoisingSettings,
    FinetuneSettings,
    StageSettings,
)

MODEL, POOL = "model", "pool"
INPUT_SIZE, MICRO_BATCH = f"{MODEL}.input_size", f"{FINETUNE}.micro_batch"
_PUBLISHED_SIZE = 224  # Table 8
# The micro-batch of a device of 16 GiB: activations of one slice of 224 x 224 in ViT-B with four branches, trained in
# 32-bit floats, beside 2 GiB of weights (estimates).
_MEMORY_GIB, _FIXED_GIB, _SLICE_GIB = 16.0, 2.0, 0.75
_LARGEST_MICRO_BATCH = 32


@dataclass(frozen=True)
class Method:
    """What a request says about the method; needs no data.

    ``settings`` has ``model``, ``pool`` and every stage by name. ``changes`` names everything that differs from the
    trainer's defaults, ``unused`` assignments to stages that this run does not have.
    """

    trainer: Trainer
    recipe: str
    levels: tuple[Level, ...]
    backbone: str
    small: bool
    settings: Mapping[str, Any]
    changes: Mapping[str, Any]
    unused: tuple[str, ...]

    @property
    def model(self) -> ModelSettings | NetworkSettings:
        """The settings of the network."""
        settings: ModelSettings | NetworkSettings = self.settings[MODEL]
        return settings

    @property
    def pool(self) -> PoolSettings:
        """The settings of the pool."""
        settings: PoolSettings = self.settings[POOL]
        return settings

    @property
    def finetune(self) -> FinetuneSettings:
        """The settings of stage 2."""
        settings: FinetuneSettings = self.settings[FINETUNE]
        return settings

    @property
    def stages(self) -> dict[str, StageSettings]:
        """The stages in their order."""
        return {name: value for name, value in self.settings.items() if name not in (MODEL, POOL)}


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
    if request.backbone_weights == BOOTSTRAP:
        stages = {BOOTSTRAP: BOOTSTRAP_BASE.small() if small else BOOTSTRAP_BASE, **stages}
    check_stage(request.stage, stages)
    pool = PAPER_POOL if PAPER in request.unlabeled else PoolSettings()
    default = {MODEL: trainer.model_for(small=small), POOL: pool, **stages}
    unused = tuple(one for one in request.assignments if _stage_of(one) in set(STAGE_NAMES) - set(stages))
    settings = _with_parts(default, [one for one in request.assignments if one not in unused])
    changes = _asked(request, trainer, recipe, levels, backbone, small=small)
    changes |= differences(settings, _with_parts(default, []))
    if request.fast:
        settings |= {name: stage.short() for name, stage in settings.items() if isinstance(stage, StageSettings)}
    return Method(trainer, recipe, levels, backbone, small, settings, changes, unused)


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
        choices[INPUT_SIZE] = earlier.get(INPUT_SIZE) or _preferred_size(plans)
        size = int(choices[INPUT_SIZE].value)
    finetune = method.finetune
    if finetune.micro_batch is None:
        choices[MICRO_BATCH] = earlier.get(MICRO_BATCH) or _fitting_micro_batch(size)
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


def _asked(
    request: Request, trainer: Trainer, recipe: str, levels: tuple[Level, ...], backbone: str, *, small: bool
) -> dict[str, Any]:
    """What the request says besides ``--set`` that is not the default."""
    asked = {
        "seed": (request.seed, 0),
        "recipe": (recipe, trainer.default_recipe(small=small)),
        "levels": (list(levels), list(trainer.levels)),
        "backbone": (backbone, trainer.backbone),
        "backbone_weights": (request.backbone_weights, None),
        "unlabeled": (sorted(request.unlabeled), []),
        "transductive": (request.transductive, False),
        "exclude_leaks": (request.exclude_leaks, False),
        "allow_leak": (sorted(request.allow_leak), []),
    }
    return {name: value for name, (value, usual) in asked.items() if value != usual}


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


def _stage_of(assignment: str) -> str:
    return assignment.partition("=")[0].partition(".")[0]


def _preferred_size(plans: Plans) -> Choice:
    if plans.input_size.value is not None:
        return Choice(plans.input_size.value, plans.input_size.why)
    return Choice(_PUBLISHED_SIZE, "the published setting (Table 8)")


def _fitting_micro_batch(input_size: int) -> Choice:
    """The micro-batch for a device of 16 GiB: what is left beside weights, over the need of a slice."""
    need = _SLICE_GIB * (input_size / 224) ** 2
    fits = max(1, int((_MEMORY_GIB - _FIXED_GIB) / need))
    value = 1
    while value * 2 <= min(fits, _LARGEST_MICRO_BATCH):
        value *= 2
    return Choice(
        value,
        f"({_MEMORY_GIB:g} - {_FIXED_GIB:g}) GiB / {need:.2f} GiB per slice of {input_size} x {input_size} "
        f"= {fits}, as a power of two of at most {_LARGEST_MICRO_BATCH}",
    )
