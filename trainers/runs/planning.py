"""From a request to a run: everything is settled and checked before the first step is taken."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from samora_pipeline.contracts.model_spec import Volume
from samora_pipeline.contracts.pool import POOLS_FOLDER
from samora_pipeline.contracts.run import (
    BOOTSTRAP_FLAG,
    LEAK_FLAG,
    PHANTOM_FLAG,
    TRAINING_FLAG,
    TRANSDUCTIVE_FLAG,
    Choice,
    PoolRecord,
    RunConfig,
    TeacherRecord,
)
from samora_pipeline.files import digest_file
from samora_pipeline.models.assembly import check_spec
from samora_pipeline.paths import Roots
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.obtain import get
from trainers.pool.candidates import LeakReport, names
from trainers.pool.datasets import PreparedDataset, open_dataset
from trainers.runs.automatic import Machine, choose_base, choose_consistency, choose_minutes, this_machine
from trainers.runs.budget import EPOCHS, estimates, fit_epochs, measure, of_main_rank, with_epochs
from trainers.runs.choices import BASE_CHOICES, CONSISTENCY, Method, choose_method, network_spec, typed_settings
from trainers.runs.data import RunData, find_data, labelled_share
from trainers.runs.folder import check_config, earlier_choices, existing_config
from trainers.runs.naming import fold_folder, run_name
from trainers.runs.precision import choose_precision
from trainers.runs.request import Request, find_trainer, resolve
from trainers.runs.sizes import choose_size, size_of
from trainers.runs.taught import find_start, find_teachers, require_base
from trainers.settings import BOOTSTRAP, LEVEL_OF, TEACHER_OF, DistillationSettings
from trainers.stages.catalog import make_stage
from trainers.stages.encoder import BaseEncoder, find_base
from trainers.stages.experts import hidden_cases
from trainers.stages.probe import StageCost
from trainers.stages.stage import RunContext, Stage
from trainers.stages.teachers import plan_teacher
from trainers.stages.unlabelled import teacher_flag

PRETRAINING_FOLDER = "pretraining"


@dataclass(frozen=True)
class PlannedRun:
    """A run of one fold, resolved: its configuration, its places, and what has to be said before it starts.

    ``leaks``: see ``LeakReport.require_settled``, without which nothing may be trained.
    """

    config: RunConfig
    context: RunContext
    method: Method
    leaks: LeakReport

    @property
    def read_folders(self) -> list[Path]:
        """The preprocessed folders that its slices come from: its own dataset's, and those of the pool."""
        pool = self.context.pool.members if self.context.pool else ()
        return sorted({dataset.folder for dataset in (self.context.dataset, *(member.dataset for member in pool))})


def plan_run(
    request: Request,
    roots: Roots,
    device: torch.device | None = None,
    *,
    resume_command: str = "",
    tensorboard: bool = False,
    accept_licence: bool = False,
    dry: bool = False,
) -> PlannedRun:
    """Resolve a request; nothing of the run is written.

    Args:
        request: what was typed.
        roots: the data folders.
        device: where it trains; None: a CPU, of a run that is only described.
        resume_command, tensorboard: see ``RunContext``.
        accept_licence: fetch teachers whose non-commercial licence has to be accepted.
        dry: the run is only described, and needs no file of weights.

    Raises:
        UsageError: an argument is wrong. DataError: the data are not ready, or the run's folder holds another
            configuration (``E-RUN-19``). AssetError: ``E-WEIGHT-05`` the base encoder is missing.
    """
    request, here = resolve(request), device or torch.device("cpu")
    machine = this_machine(here, roots.weights, accepts=accept_licence)
    dataset, fold_name, folder, earlier, method, chosen = _choose(request, roots, machine)
    pretraining = roots.results / dataset.name / PRETRAINING_FOLDER
    size, volume = size_of(method, chosen)
    data = find_data(request, method, dataset, fold_name, size, pretraining / POOLS_FOLDER, roots)
    base = _base(method, roots.weights)
    config = _config(request, method, dataset, data, base, size, volume)
    check_spec(config.model)
    existing = None if request.fast else existing_config(folder)
    at_once = method.finetune.micro_batch or method.finetune.batch
    arithmetic, precision = choose_precision(request.precision, device, config, at_once, existing)
    chosen |= precision
    if accept_licence and not dry:
        _fetch_teachers(method.stages, roots.weights)
    hidden = hidden_cases(config)
    config = replace(config, taught_by=find_teachers(request.taught_by, config, hidden, roots.results))
    config = replace(config, started_from=find_start(request.start_from, config, hidden, roots.results))
    config = _with_teachers(replace(config, choices=chosen), method, size, roots.weights, absent=dry)
    context = RunContext(
        dataset=dataset,
        pool=data.pool,
        base=base,
        stages={},
        folder=folder,
        pretraining=pretraining,
        weights=roots.weights,
        device=here,
        arithmetic=arithmetic,
        resume_command=resume_command,
        tensorboard=tensorboard,
    )
    minutes = choose_minutes(request, machine, chosen)
    config, context = _with_lengths(config, context, method.stages, earlier, minutes, typed_settings(request))
    if existing is not None and not config.estimates:
        config = replace(config, estimates=existing.estimates)
    config = with_bootstrap(config, context)
    if request.start_from is not None:
        require_base(request.start_from, config, roots.results)
    return PlannedRun(config if request.fast else check_config(folder, config), context, method, data.leaks)


class _Chosen(NamedTuple):
    """What a run is of: its data, its place, its method, and what nobody typed, now and ``earlier``."""

    dataset: PreparedDataset
    fold: str
    folder: Path
    earlier: Mapping[str, Choice]
    method: Method
    choices: dict[str, Choice]


def _choose(request: Request, roots: Roots, machine: Machine) -> _Chosen:
    # What is mistyped is refused before any file is read.
    chosen = choose_base(find_trainer(request.trainer), request, machine)
    choose_method(request, chosen)
    dataset = open_dataset(request.dataset, roots)
    fold = request.fold or dataset.splits().default_fold
    folder = fold_folder(request, roots.results / dataset.name, fold)
    earlier = {} if request.fast else earlier_choices(folder)
    chosen = {name: earlier[name] for name in BASE_CHOICES if name in earlier} or chosen
    if CONSISTENCY in earlier:
        chosen[CONSISTENCY] = earlier[CONSISTENCY]
    elif not earlier:
        share = labelled_share(dataset, request, fold)
        chosen |= choose_consistency(request, choose_method(request, chosen), share)
    method = choose_method(request, chosen)
    return _Chosen(dataset, fold, folder, earlier, method, chosen | choose_size(method, dataset, earlier))


def _base(method: Method, weights: Path) -> BaseEncoder | None:
    """The base encoder; None where the network is no SAM, or starts from random weights."""
    if method.trainer.network is not None or method.from_random:
        return None
    return find_base(method.weights or method.backbone, weights)


def _with_teachers(config: RunConfig, method: Method, size: int, weights: Path, *, absent: bool) -> RunConfig:
    """The run with what its experts learn from, and what reports have to say about it."""
    teachers = _teachers(method.stages, size, weights, absent=absent)
    flags = [flag for flag in map(teacher_flag, teachers.values()) if flag]
    return replace(config, teachers=teachers, warnings=tuple(dict.fromkeys((*config.warnings, *flags))))


def _with_lengths(
    config: RunConfig,
    context: RunContext,
    settings: Mapping[str, Any],
    earlier: Mapping[str, Choice],
    minutes: float | None,
    typed: frozenset[str],
) -> tuple[RunConfig, RunContext]:
    """The run with its stages, their epochs chosen for a time budget where there is one."""
    lengths = {name: choice for name, choice in earlier.items() if name.endswith(f".{EPOCHS}")}
    costs: dict[str, StageCost] = {}
    if minutes is not None and not lengths:
        costs = measure(*with_stages(config, context, settings))
        lengths = of_main_rank(settings, fit_epochs(settings, costs, minutes, typed))
    chosen = with_epochs(settings, lengths)
    scaled = {name: cost.at(settings[name].epochs, chosen[name].epochs) for name, cost in costs.items()}
    config = replace(config, choices={**config.choices, **lengths}, estimates=estimates(scaled))
    return with_stages(config, context, chosen)


def with_estimates(run: PlannedRun) -> PlannedRun:
    """The run with predictions for the stages that have to be trained, measured on its device unless they were."""
    if run.config.estimates or run.leaks.unsettled:
        return run
    return replace(run, config=replace(run.config, estimates=estimates(measure(run.config, run.context))))


def with_stages(config: RunConfig, context: RunContext, settings: Mapping[str, Any]) -> tuple[RunConfig, RunContext]:
    """The run with its stages, each with the digest of what it depends on."""
    stages: dict[str, Stage[Any]] = {}
    for name, own in settings.items():
        stage = make_stage(name, own)
        record = stage.record(config)
        config = replace(config, stages=(*config.stages, record))
        stages[name] = replace(stage, digest=record.digest)
    return config, replace(context, stages=stages)


def with_bootstrap(config: RunConfig, context: RunContext) -> RunConfig:
    """Note the digest of a base that was trained on the pool already, by this or another run."""
    if config.base is None or BOOTSTRAP not in context.stages:
        return config
    file = context.stages[BOOTSTRAP].result(context)
    return replace(config, base=replace(config.base, digest=digest_file(file))) if file.is_file() else config


def _fetch_teachers(settings: Mapping[str, Any], weights: Path) -> None:
    """Fetch the teachers' weights that are missing, their licence accepted."""
    for stage in TEACHER_OF.values():
        name = settings[stage].weights if stage in settings else None
        if name in ASSETS and not ASSETS[name].path(weights).is_file():
            get(name, weights, accept=True)


def _teachers(settings: Mapping[str, Any], input_size: int, weights: Path, *, absent: bool) -> dict[str, TeacherRecord]:
    """What the experts of a run learn from, by level."""
    found = {}
    for expert, stage in TEACHER_OF.items():
        taught = settings.get(expert)
        if stage in settings and isinstance(taught, DistillationSettings):
            found[LEVEL_OF[stage].value] = plan_teacher(
                stage, settings[stage], taught.feature, input_size, weights, absent=absent
            )
    return found


def _config(
    request: Request,
    method: Method,
    dataset: PreparedDataset,
    data: RunData,
    base: BaseEncoder | None,
    input_size: int,
    volume: Volume | None,
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
        name=run_name(request),
        recipe=method.recipe,
        seed=request.seed,
        model=network_spec(
            method,
            input_size=input_size,
            channels=len(plans.channel_names),
            num_outputs=scheme.num_outputs,
            volume=volume,
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
