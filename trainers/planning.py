"""From a request to a plan of the run: everything is settled and checked before the first step is taken."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.budget import select
from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.leakage import protected_names, scored_names, training_leaks
from samora_pipeline.contracts.level import Level
from samora_pipeline.contracts.pool import POOLS_FOLDER
from samora_pipeline.contracts.run import (
    BOOTSTRAP_STAMP,
    LEAK_STAMP,
    PHANTOM_STAMP,
    TRAINING_STAMP,
    TRANSDUCTIVE_STAMP,
    PoolRecord,
    RunConfig,
)
from samora_pipeline.contracts.splits import Fold, Selection, Splits
from samora_pipeline.errors import UsageError
from samora_pipeline.files import digest_json
from samora_pipeline.models.assembly import check_spec
from samora_pipeline.models.backbones.catalog import BACKBONES
from samora_pipeline.paths import Roots
from trainers.ablations import resolve
from trainers.artefacts import PRETRAINING_FOLDER, Artefact, expert_artefact
from trainers.base import Base, bootstrapped_base, find_base
from trainers.config import Settings, shortened
from trainers.held_out import hold_out
from trainers.leaks import LeakReport, names, settle
from trainers.overrides import apply_overrides, differences
from trainers.pool import Pool, make_pool
from trainers.pool_candidates import Candidates, find_candidates, pool_leaks
from trainers.pool_rules import PAPER_POOL
from trainers.pool_sources import PAPER, find_pool_datasets
from trainers.prepared import PreparedDataset, open_dataset
from trainers.recipes import RECIPES
from trainers.request import BOOTSTRAP, Request, check_stage, choose_levels, choose_recipe, find_trainer
from trainers.run_folder import check_config
from trainers.teachers import PlannedTeacher, plan_teachers
from trainers.trainer import Trainer

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
    """A run of one fold, resolved. ``pool`` is None where nothing is trained without labels.

    ``leaks``: see ``LeakReport.require_settled``, without which nothing may be trained.
    """

    config: RunConfig
    choices: Choices
    dataset: PreparedDataset
    pool: Pool | None
    base: Base
    teachers: Mapping[Level, PlannedTeacher]
    experts: Mapping[Level, Artefact]
    folder: Path
    leaks: LeakReport

    @property
    def artefacts(self) -> tuple[Artefact, ...]:
        """What stage 1 makes, in order."""
        first = (self.base.bootstrap, *(teacher.artefact for teacher in self.teachers.values()))
        return (*(artefact for artefact in first if artefact is not None), *self.experts.values())


def make_choices(request: Request) -> Choices:
    """Settle trainer, recipe, levels, backbone and settings.

    Raises:
        UsageError: ``E-ARG-..``, ``E-PRESET-..``, ``E-RECIPE-01``, ``E-STAGE-01``, ``E-NAME-01``, ``E-SET-..``.
    """
    request = resolve(request)
    check_stage(request.stage)
    trainer = find_trainer(request.trainer)
    backbone = request.backbone or trainer.default_backbone
    BACKBONES.get(backbone)
    recipe = choose_recipe(trainer, request.recipe, backbone)
    levels = choose_levels(trainer, request.levels)
    default = trainer.settings_for(backbone, recipe)
    if PAPER in request.unlabeled:
        default = replace(default, pool=PAPER_POOL)
    settings = apply_overrides(default, request.assignments)
    asked = {
        "seed": (request.seed, 0),
        "recipe": (recipe, trainer.default_recipe(backbone)),
        "levels": (list(levels), list(trainer.levels)),
        "backbone": (backbone, trainer.default_backbone),
        "backbone_weights": (request.backbone_weights, None),
        "unlabeled": (sorted(request.unlabeled), []),
        "transductive": (request.transductive, False),
        "exclude_leaks": (request.exclude_leaks, False),
        "allow_leak": (sorted(request.allow_leak), []),
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
    whole = splits.fold(fold_name)
    scored = scored_names(splits, whole)
    candidates = _candidates(request, choices, dataset, scored, roots)
    leaks = _leaks(request, dataset, splits, whole, candidates)
    taken_out = frozenset(names(leaks.excluded))
    fold = Fold(tuple(case for case in whole.train if case not in taken_out), whole.scored)
    drawn = _selection(request, splits, fold_name, _labelled_slices(dataset, fold), taken_out)
    selection, held_out = hold_out(drawn, choices.settings.finetune.held_out, dataset.raw.patient)
    results = roots.results / dataset.name
    if request.fast:
        # One level deeper than runs lie, so that nothing ever predicts with it.
        results = results / FAST_NAME
    folder = results / f"{_class_name(request.trainer)}__{request.split}__{_name(request, choices)}"
    pretraining = results / PRETRAINING_FOLDER
    pool = _pool(request, choices, candidates, leaks, scored, pretraining / POOLS_FOLDER)
    common = _common_inputs(choices.backbone, dataset, pool, request.seed) if pool else {}
    if request.backbone_weights == BOOTSTRAP:
        base = bootstrapped_base(common, choices.settings, pretraining)
    else:
        base = find_base(request.backbone_weights or choices.backbone, roots.weights)
    recipe = RECIPES[choices.recipe]
    teachers = plan_teachers(recipe, choices.levels, common, choices.settings, roots.weights, pretraining)
    experts = {
        level: expert_artefact(
            level,
            common,
            base.identity,
            teachers[level].identity if level in teachers else "",
            choices.settings,
            pretraining,
        )
        for level in (choices.levels if recipe.experts else ())
    }
    fold_folder = folder / f"fold_{fold_name}"
    config = _config(request, choices, dataset, selection, fold, pool, base, teachers, experts, leaks)
    config = replace(config, held_out=held_out)
    check_spec(config.model)
    config = config if request.fast else check_config(fold_folder, config)
    return RunPlan(config, choices, dataset, pool, base, teachers, experts, fold_folder, leaks)


def _config(
    request: Request,
    choices: Choices,
    dataset: PreparedDataset,
    selection: Selection,
    fold: Fold,
    pool: Pool | None,
    base: Base,
    teachers: Mapping[Level, PlannedTeacher],
    experts: Mapping[Level, Artefact],
    leaks: LeakReport,
) -> RunConfig:
    plans, scheme = dataset.plans, dataset.raw.scheme
    stages = [f"teacher_{level.value}" for level in teachers] + [artefact.stage for artefact in experts.values()]
    stages += [BOOTSTRAP] * (base.bootstrap is not None)
    stamps = {
        PHANTOM_STAMP: dataset.raw.ours.phantom,
        TRANSDUCTIVE_STAMP: pool is not None and request.transductive,
        BOOTSTRAP_STAMP: base.bootstrap is not None,
        TRAINING_STAMP: not set(fold.scored).isdisjoint(fold.train),
        LEAK_STAMP: bool(leaks.allowed),
        **{teacher.stamp: True for teacher in teachers.values() if teacher.stamp},
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
        teachers={level.value: teacher.record for level, teacher in teachers.items()},
        settings={stage: to_plain(getattr(choices.settings, stage)) for stage in ("model", *stages, "finetune")},
        stamps=tuple(stamp for stamp, applies in stamps.items() if applies),
        excluded_leaks=names(leaks.excluded),
        allowed_leaks=names(leaks.allowed),
    )


def _candidates(
    request: Request, choices: Choices, dataset: PreparedDataset, scored: frozenset[str], roots: Roots
) -> Candidates | None:
    if not RECIPES[choices.recipe].experts and request.backbone_weights != BOOTSTRAP:
        return None
    pool = choices.settings.pool
    found = find_pool_datasets(dataset, request.unlabeled, roots, complete=pool.complete, own_scans=pool.own)
    return find_candidates(dataset, found, scored, transductive=request.transductive)


def _leaks(
    request: Request, dataset: PreparedDataset, splits: Splits, fold: Fold, candidates: Candidates | None
) -> LeakReport:
    cases = dataset.fingerprint.cases
    protected = protected_names(splits, fold, cases)
    found = training_leaks(fold.train, protected, cases, dataset.raw.patient)
    if candidates is not None and not request.transductive:
        found += pool_leaks(candidates, protected)
    return settle(found, exclude=request.exclude_leaks, allow=request.allow_leak)


def _selection(
    request: Request, splits: Splits, fold: str, available: dict[str, int], taken_out: frozenset[str]
) -> Selection:
    """The labelled selection; one that was stored with a case that is now taken out is drawn again."""
    selection = select(splits, request.split, fold, request.seed, available)
    if taken_out.isdisjoint(selection.cases):
        return selection
    return select(replace(splits, selections={}), request.split, fold, request.seed, available)


def _pool(
    request: Request,
    choices: Choices,
    candidates: Candidates | None,
    leaks: LeakReport,
    scored: frozenset[str],
    folder: Path,
) -> Pool | None:
    if candidates is None:
        return None
    settings = choices.settings.pool
    return make_pool(candidates, settings, leaks, scored, request.seed, folder, transductive=request.transductive)


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
            "E-ARG-15",
            f'--name "{request.name}" cannot name a run',
            found=request.name,
            expected=f'letters, digits, ".", "_" and "-", no "__", and not {FAST_NAME}',
        )
    return request.name


def _class_name(trainer: str) -> str:
    return trainer.rpartition(":")[2]
