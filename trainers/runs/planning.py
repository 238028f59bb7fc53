"""From a request to a run: everything is settled and checked before the first step is taken."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from samora_pipeline.contracts.leakage import protected_names, scored_names, training_leaks
from samora_pipeline.contracts.pool import POOLS_FOLDER
from samora_pipeline.contracts.run import (
    BOOTSTRAP_FLAG,
    LEAK_FLAG,
    PHANTOM_FLAG,
    TRAINING_FLAG,
    TRANSDUCTIVE_FLAG,
    PoolRecord,
    RunConfig,
    TeacherRecord,
)
from samora_pipeline.contracts.splits import Fold, Selection, select
from samora_pipeline.errors import UsageError
from samora_pipeline.files import digest_file, digest_json
from samora_pipeline.models.assembly import check_spec
from samora_pipeline.paths import Roots
from trainers.pool.candidates import LeakReport, find_candidates, hold_out, names, pool_leaks, settle
from trainers.pool.datasets import PreparedDataset, open_dataset
from trainers.pool.pool import Pool, make_pool
from trainers.runs.choices import Method, choose_method, choose_sizes, network_spec
from trainers.runs.folder import check_config, existing_config
from trainers.runs.precision import choose_precision
from trainers.runs.request import Request
from trainers.settings import BOOTSTRAP, FINETUNE, LEVEL_OF, TEACHER_OF, DistillationSettings
from trainers.stages.catalog import make_stage
from trainers.stages.encoder import BaseEncoder, find_base
from trainers.stages.stage import RunContext, Stage
from trainers.stages.teachers import plan_teacher
from trainers.stages.unlabelled import teacher_flag

PRETRAINING_FOLDER = "pretraining"
DEFAULT_NAME = "default"
FAST_NAME = "fast-dev-run"
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_DIGEST_LENGTH = 8


@dataclass(frozen=True)
class PlannedRun:
    """A run of one fold, resolved: its configuration, its places, and what has to be said before it starts.

    ``leaks``: see ``LeakReport.require_settled``, without which nothing may be trained.
    """

    config: RunConfig
    context: RunContext
    method: Method
    leaks: LeakReport


@dataclass(frozen=True)
class _Data:
    """What a run learns from and is scored on."""

    selection: Selection
    held_out: tuple[str, ...]
    fold: Fold
    pool: Pool | None
    leaks: LeakReport


def plan_run(
    request: Request,
    roots: Roots,
    device: torch.device | None = None,
    *,
    resume_command: str = "",
    tensorboard: bool = False,
) -> PlannedRun:
    """Resolve a request; nothing is written.

    Raises:
        UsageError: an argument is wrong. DataError: the data are not ready, or the run's folder holds another
            configuration (``E-RUN-19``). AssetError: ``E-WEIGHT-05`` the base encoder is missing.
    """
    method = choose_method(request)
    dataset = open_dataset(request.dataset, roots)
    results = roots.results / dataset.name
    # Trial runs lie one level deeper, so that nothing ever predicts with them.
    runs = results / FAST_NAME if request.fast else results
    run_folder = runs / f"{request.trainer.rpartition(':')[2]}__{request.split}__{_name(request, method)}"
    fold_name = request.fold or dataset.splits().default_fold
    folder, pretraining = run_folder / f"fold_{fold_name}", results / PRETRAINING_FOLDER
    existing = None if request.fast else existing_config(folder)
    size, finetune, choices = choose_sizes(method, dataset.plans, existing.choices if existing else {})
    data = _data(request, method, dataset, fold_name, size, pretraining / POOLS_FOLDER, roots)
    base = None
    if method.trainer.network is None:
        base = find_base(request.backbone_weights or method.backbone, roots.weights)
    config = replace(_config(request, method, dataset, data, base, size), choices=choices)
    check_spec(config.model)
    micro_batch = finetune.micro_batch or finetune.batch
    arithmetic, precision = choose_precision(request.precision, device, config, micro_batch, existing)
    config = replace(config, choices={**config.choices, **precision})
    settings = {**method.stages, FINETUNE: finetune}
    config = replace(config, teachers=_teachers(settings, size, roots.weights))
    stages: dict[str, Stage[Any]] = {}
    for name, own in settings.items():
        stage = make_stage(name, own)
        record = stage.record(config)
        config = replace(config, stages=(*config.stages, record))
        stages[name] = replace(stage, digest=record.digest)
    flags = [flag for flag in map(teacher_flag, config.teachers.values()) if flag]
    config = replace(config, warnings=tuple(dict.fromkeys((*config.warnings, *flags))))
    context = RunContext(
        dataset=dataset,
        pool=data.pool,
        base=base,
        stages=stages,
        folder=folder,
        pretraining=pretraining,
        weights=roots.weights,
        device=device or torch.device("cpu"),
        arithmetic=arithmetic,
        resume_command=resume_command,
        tensorboard=tensorboard,
    )
    config = with_bootstrap(config, context)
    return PlannedRun(config if request.fast else check_config(folder, config), context, method, data.leaks)


def with_bootstrap(config: RunConfig, context: RunContext) -> RunConfig:
    """Note the digest of a base that was trained on the pool already, by this or another run."""
    if config.base is None or BOOTSTRAP not in context.stages:
        return config
    file = context.stages[BOOTSTRAP].result(context)
    return replace(config, base=replace(config.base, digest=digest_file(file))) if file.is_file() else config


def _data(
    request: Request,
    method: Method,
    dataset: PreparedDataset,
    fold_name: str,
    input_size: int,
    pools: Path,
    roots: Roots,
) -> _Data:
    splits, cases, patient = dataset.splits(), dataset.fingerprint.cases, dataset.raw.patient
    whole = splits.fold(fold_name)
    scored, protected = scored_names(splits, whole), protected_names(splits, whole, cases)
    found = training_leaks(whole.train, protected, cases, patient)
    candidates = None
    if set(method.stages) - {FINETUNE}:
        candidates = find_candidates(
            dataset, request.unlabeled, roots, method.pool, scored, transductive=request.transductive
        )
        if not request.transductive:
            found += pool_leaks(candidates, protected)
    leaks = settle(found, exclude=request.exclude_leaks, allow=request.allow_leak)
    taken_out = frozenset(names(leaks.excluded))
    fold = Fold(tuple(case for case in whole.train if case not in taken_out), whole.scored)
    stored = {case: dataset.cases[case] for case in fold.train if case in dataset.cases}
    labelled = {case: record.shape[0] for case, record in stored.items() if record.label_crcs is not None}
    drawn = select(splits, request.split, fold_name, request.seed, labelled)
    if not taken_out.isdisjoint(drawn.cases):
        # It was stored with a case that is now taken out.
        drawn = select(replace(splits, selections={}), request.split, fold_name, request.seed, labelled)
    selection, held_out = hold_out(drawn, method.finetune.held_out, patient)
    pool = None
    if candidates is not None:
        pool = make_pool(
            candidates,
            method.pool,
            leaks,
            scored,
            request.seed,
            pools,
            input_size=input_size,
            transductive=request.transductive,
        )
    return _Data(selection, held_out, fold, pool, leaks)


def _teachers(settings: dict[str, Any], input_size: int, weights: Path) -> dict[str, TeacherRecord]:
    """What the experts of a run learn from, by level."""
    found = {}
    for expert, stage in TEACHER_OF.items():
        taught = settings.get(expert)
        if stage in settings and isinstance(taught, DistillationSettings):
            found[LEVEL_OF[stage].value] = plan_teacher(stage, settings[stage], taught.feature, input_size, weights)
    return found


def _config(
    request: Request, method: Method, dataset: PreparedDataset, data: _Data, base: BaseEncoder | None, input_size: int
) -> RunConfig:
    fold, pool = data.fold, data.pool
    plans, scheme = dataset.plans, dataset.raw.scheme
    warnings = {
        PHANTOM_FLAG: dataset.raw.ours.phantom,
        TRANSDUCTIVE_FLAG: pool is not None and request.transductive,
        BOOTSTRAP_FLAG: base is not None and base.is_bootstrapped,
        TRAINING_FLAG: not set(fold.scored).isdisjoint(fold.train),
        LEAK_FLAG: bool(data.leaks.allowed),
    }
    return RunConfig(
        dataset=dataset.name,
        trainer=request.trainer,
        split=request.split,
        fold=data.selection.fold,
        name=_name(request, method),
        recipe=method.recipe,
        seed=request.seed,
        model=network_spec(
            method, input_size=input_size, in_channels=len(plans.channel_names), num_outputs=scheme.num_outputs
        ),
        base=base.record if base else None,
        plans=plans,
        labels=scheme,
        file_ending=dataset.raw.description.file_ending,
        selection=data.selection,
        scored=fold.scored,
        pool=pool.record if pool else PoolRecord({}, ()),
        warnings=tuple(warning for warning, applies in warnings.items() if applies),
        excluded_leaks=names(data.leaks.excluded),
        allowed_leaks=names(data.leaks.allowed),
        held_out=data.held_out,
    )


def _name(request: Request, method: Method) -> str:
    if request.fast:
        return FAST_NAME
    if request.name is None:
        return digest_json(dict(method.changes))[:_DIGEST_LENGTH] if method.changes else DEFAULT_NAME
    if not _NAME.match(request.name) or "__" in request.name or request.name == FAST_NAME:
        raise UsageError("E-ARG-15", request=request, found=request.name)
    return request.name
