"""From a request to a plan of the run: everything is settled and checked before the first step is taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.budget import select
from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.level import Level
from samora_pipeline.contracts.run import BOOTSTRAP_STAMP, PHANTOM_STAMP, TRANSDUCTIVE_STAMP, PoolRecord, RunConfig
from samora_pipeline.contracts.splits import Fold, Selection
from samora_pipeline.errors import UsageError
from samora_pipeline.files import digest_json
from samora_pipeline.models.assembly import check_spec
from samora_pipeline.models.backbones.catalog import BACKBONES
from samora_pipeline.paths import Roots
from trainers.artefacts import PRETRAINING_FOLDER, Artefact, expert_artefact
from trainers.base import Base, bootstrapped_base, find_base
from trainers.config import Settings, shortened
from trainers.overrides import apply_overrides, differences
from trainers.pool import Pool, make_pool, scored_names
from trainers.prepared import PreparedDataset, open_dataset
from trainers.request import BOOTSTRAP, Request, check_stage, choose_levels, choose_recipe, find_trainer
from trainers.run_folder import check_config
from trainers.trainer import NO_PRETRAINING, Trainer

TRAINING_STAMP = "SCORED ON TRAINING CASES"
DEFAULT_NAME = "default"
FAST_NAME = "fast-dev-run"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_DIGEST_LENGTH = 8


@dataclass(frozen=True)
class Choices:
    """What a request says about the method, with defaults filled in; needs no data.

    ``changes`` names everything that differs from the trainer's defaults.
    """

    trainer: Trainer
    recipe: str
    levels: tuple[Level, ...]
    backbone: str
    settings: Settings
    changes: dict[str, Any]


@dataclass(frozen=True)
class RunPlan:
    """A run of one fold, resolved. ``pool`` is None where nothing is trained without labels."""

    config: RunConfig
    choices: Choices
    dataset: PreparedDataset
    pool: Pool | None
    base: Base
    experts: Mapping[Level, Artefact]
    folder: Path

    @property
    def artefacts(self) -> tuple[Artefact, ...]:
        """What stage 1 makes, in order."""
        first = (self.base.bootstrap,) if self.base.bootstrap else ()
        return (*first, *self.experts.values())


def make_choices(request: Request) -> Choices:
    """Settle trainer, recipe, levels, backbone and settings.

    Raises:
        UsageError: ``E-ARG-..``, ``E-RECIPE-01``, ``E-STAGE-01``, ``E-NAME-01``, ``E-SET-..``.
    """
    check_stage(request.stage)
    trainer = find_trainer(request.trainer)
    recipe = choose_recipe(trainer, request.recipe)
    levels = choose_levels(trainer, request.levels)
    backbone = request.backbone or trainer.default_backbone
    BACKBONES.get(backbone)
    default = trainer.settings_for(backbone)
    settings = apply_overrides(default, request.assignments)
    asked = {
        "seed": (request.seed, 0),
        "recipe": (recipe, trainer.recipes[0]),
        "levels": (list(levels), list(trainer.levels)),
        "backbone": (backbone, trainer.default_backbone),
        "backbone_weights": (request.backbone_weights, None),
        "unlabeled": (sorted(request.unlabeled), []),
        "transductive": (request.transductive, False),
    }
    changes = {name: value for name, (value, usual) in asked.items() if value != usual}
    changes |= to_plain(differences(settings, default))
    return Choices(trainer, recipe, levels, backbone, shortened(settings) if request.fast else settings, changes)


def plan_run(request: Request, roots: Roots) -> RunPlan:
    """Resolve a request; nothing is written.

    Raises:
        UsageError: an argument is wrong. DataError: the data are not ready, or the run's folder holds another
            configuration (``E-RUN-19``). AssetError: ``E-WEIGHT-05`` the base encoder is missing.
    """
    choices = make_choices(request)
    dataset = open_dataset(request.dataset, roots)
    splits = dataset.splits()
    fold_name = request.fold or splits.default_fold
    fold = splits.fold(fold_name)
    selection = select(splits, request.split, fold_name, request.seed, _labelled_slices(dataset, fold))
    results = roots.results / dataset.name
    if request.fast:
        # One level deeper than runs lie, so that nothing ever predicts with it.
        results = results / FAST_NAME
    folder = results / f"{_class_name(request.trainer)}__{request.split}__{_name(request, choices)}"
    pretraining = results / PRETRAINING_FOLDER
    pool = _pool(request, choices, dataset, scored_names(splits, fold), roots)
    common = _common_inputs(choices.backbone, dataset, pool, request.seed) if pool else {}
    if request.backbone_weights == BOOTSTRAP:
        base = bootstrapped_base(common, choices.settings, pretraining)
    else:
        base = find_base(request.backbone_weights or choices.backbone, roots.weights)
    experts = {
        level: expert_artefact(level, common, base.identity, choices.recipe, choices.settings, pretraining)
        for level in (choices.levels if choices.recipe != NO_PRETRAINING else ())
    }
    fold_folder = folder / f"fold_{fold_name}"
    config = _config(request, choices, dataset, selection, fold, pool, base, experts)
    check_spec(config.model)
    config = config if request.fast else check_config(fold_folder, config)
    return RunPlan(config, choices, dataset, pool, base, experts, fold_folder)


def _config(
    request: Request,
    choices: Choices,
    dataset: PreparedDataset,
    selection: Selection,
    fold: Fold,
    pool: Pool | None,
    base: Base,
    experts: Mapping[Level, Artefact],
) -> RunConfig:
    plans, scheme = dataset.plans, dataset.raw.scheme
    stages = [artefact.stage for artefact in experts.values()] + [BOOTSTRAP] * (base.bootstrap is not None)
    stamps = {
        PHANTOM_STAMP: dataset.raw.ours.phantom,
        TRANSDUCTIVE_STAMP: pool is not None and request.transductive,
        BOOTSTRAP_STAMP: base.bootstrap is not None,
        TRAINING_STAMP: not set(fold.scored).isdisjoint(fold.train),
    }
    return RunConfig(
        dataset=dataset.name,
        trainer=request.trainer,
        split=request.split,
        fold=selection.fold,
        name=_name(request, choices),
        recipe=choices.recipe,
        seed=request.seed,
        model=choices.trainer.spec(
            choices.backbone,
            choices.settings.model,
            choices.levels,
            input_size=plans.input_size.value,
            in_channels=len(plans.channel_names),
            num_outputs=scheme.num_outputs,
        ),
        base=base.record,
        plans=plans,
        labels=scheme,
        file_ending=dataset.raw.description.file_ending,
        selection=selection,
        scored=fold.scored,
        pool=pool.record if pool else PoolRecord({}, ()),
        experts={level.value: artefact.key for level, artefact in experts.items()},
        settings={stage: to_plain(getattr(choices.settings, stage)) for stage in ("model", *stages, "finetune")},
        stamps=tuple(stamp for stamp, applies in stamps.items() if applies),
    )


def _pool(
    request: Request, choices: Choices, dataset: PreparedDataset, scored: frozenset[str], roots: Roots
) -> Pool | None:
    if choices.recipe == NO_PRETRAINING and request.backbone_weights != BOOTSTRAP:
        return None
    others = [open_dataset(token, roots) for token in request.unlabeled]
    return make_pool(dataset, others, scored, transductive=request.transductive)


def _common_inputs(backbone: str, dataset: PreparedDataset, pool: Pool, seed: int) -> dict[str, Any]:
    """What all artefacts of stage 1 depend on."""
    plans = dataset.plans
    return {
        "backbone": backbone,
        "input_size": plans.input_size.value,
        "channels": len(plans.channel_names),
        "pool": pool.identity(),
        "seed": seed,
    }


def _labelled_slices(dataset: PreparedDataset, fold: Fold) -> dict[str, int]:
    """The fold's training cases that have labels, with their number of slices."""
    stored = {case: dataset.cases[case] for case in fold.train if case in dataset.cases}
    return {case: record.shape[0] for case, record in stored.items() if record.label_crcs is not None}


def _name(request: Request, choices: Choices) -> str:
    if request.fast:
        return FAST_NAME
    if request.name is None:
        return digest_json(choices.changes)[:_DIGEST_LENGTH] if choices.changes else DEFAULT_NAME
    if not _NAME.match(request.name) or "__" in request.name or request.name == FAST_NAME:
        raise UsageError(
            "E-ARG-07",
            f'--name "{request.name}" cannot name a run',
            found=request.name,
            expected=f'letters, digits, ".", "_" and "-", no "__", and not {FAST_NAME}',
        )
    return request.name


def _class_name(trainer: str) -> str:
    return trainer.rpartition(":")[2]
