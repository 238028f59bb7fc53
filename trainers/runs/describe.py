"""A run in words, before anything is done: what is trained on what, for how long, and how much of it is trained."""

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch

from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.plans import PLANS_FILE
from samora_pipeline.contracts.run import TRAINING_FLAG
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.freezing import Part, account, freeze
from samora_pipeline.paths import Roots
from samora_pipeline.weights.catalog import ASSETS
from trainers.recipes import RECIPES
from trainers.runs.budget import labelled_samples, labelled_slices
from trainers.runs.folder import trained
from trainers.runs.planning import PlannedRun
from trainers.stages.stage import Stage
from trainers.stages.unlabelled import teacher_text


def describe(run: PlannedRun, roots: Roots) -> str:
    """The run as text, one fact per line."""
    return "\n".join((*_head(run, roots), *_pool(run), *_leaks(run), *_stages(run), *_account(run)))


def describe_settings(run: PlannedRun) -> str:
    """The network and the resolved settings of the run's stages as JSON."""
    settings = {record.name: record.settings for record in run.config.stages}
    return json.dumps({"model": to_plain(run.config.model), **settings}, indent=2)


def _head(run: PlannedRun, roots: Roots) -> Iterator[str]:
    config, context = run.config, run.context
    model, selection = config.model, config.selection
    yield f"root      {roots.root} ({roots.origin})"
    yield f"run       {context.folder}"
    yield f"device    {context.device}, {context.arithmetic.name}"
    for name, choice in config.choices.items():
        yield f"chosen    {name} = {choice.value}: {choice.why}"
    network = model.backbone if isinstance(model, ModelSpec) else model.network
    yield f"network   {network} at {model.input_text}, {model.num_outputs} outputs"
    if context.base is not None and config.base is not None:
        yield f"base      {config.base.origin}: {config.base.name} {config.base.digest[:12] or '(not trained yet)'}"
        if context.base.awaited:
            yield f"fetch     {ASSETS[config.base.name].terms}"
    if isinstance(model, ModelSpec):
        yield f"experts   {', '.join(model.levels) or 'none'}"
        yield f"recipe    {config.recipe}: {RECIPES[config.recipe].summary}"
    for level, teacher in config.teachers.items():
        yield f"teacher   {level}: {teacher_text(teacher)}"
        asset = ASSETS.get(teacher.weights)
        if teacher.origin == "public" and asset is not None and not asset.path(context.weights).is_file():
            yield f"fetch     {asset.terms}"
    origin = "published" if selection.published else f"drawn with seed {selection.seed}"
    where = f"{config.split}, fold {config.fold}, {origin}"
    yield f"labelled  {labelled_slices(config, context)} slices of {len(selection.cases)} cases ({where})"
    yield f"scored    {len(config.scored)} cases"
    yield from _deviations(run)


def _deviations(run: PlannedRun) -> Iterator[str]:
    """What was typed or edited, and what that came to."""
    for name, value in run.config.plans.edited.items():
        yield f"edited    {PLANS_FILE}: {name} = {to_plain(value)}, by hand"
    for name, value in run.method.changes.items():
        yield f"changed   {name} = {value}"
    for assignment in run.method.unused:
        yield f"unused    {assignment}: this run has no such stage"
    for warning in run.config.warnings:
        yield f"warning   {warning}"


def _pool(run: PlannedRun) -> Iterator[str]:
    pool = run.context.pool
    if pool is None:
        return
    for member in pool.members:
        yield f"pool      {member.dataset.name}: {len(member.cases)} cases, their labels unused, {member.slices} slices"
        reasons = Counter(filter(None, pool.candidates.reasons[member.dataset.name].values()))
        if reasons:
            yield f"          left out: {', '.join(f'{count} {reason}' for reason, count in reasons.items())}"
    if pool.record.missing:
        yield f"pool      not here, of the paper's: {', '.join(pool.record.missing)}"
    wanted = "all that show something" if pool.settings.slices is None else f"{pool.settings.slices} by quota and seed"
    scored = "no scored case"
    if pool.record.transductive or TRAINING_FLAG in run.config.warnings:
        scored = "scored cases included"
    yield f"pool      {pool.stored} slices in all, {wanted}; {scored}; intensity {pool.settings.intensity}"
    yield f"pool      list of slices: {pool.file}"


def _leaks(run: PlannedRun) -> Iterator[str]:
    report = run.leaks
    states = {"excluded": report.excluded, "allowed by name": report.allowed, "not decided": report.unsettled}
    for state, leaks in states.items():
        for leak in leaks:
            yield f"leak      {leak.text} ({leak.place}, {state})"


def _stages(run: PlannedRun) -> Iterator[str]:
    context = run.context
    slices = context.pool.slices if context.pool else 0
    for stage in context.stages.values():
        if stage.trains():
            yield f"stage     {stage.name}: {_state(stage, run, slices)}{_predicted(run, stage.name)}"
    if times := run.config.estimates:
        minutes, most = sum(one.minutes for one in times.values()), max(one.gib for one in times.values())
        disk = sum(one.disk_gib for one in times.values())
        yield f"training  about {minutes:.1f} min, {most:.1f} GiB at the peak, {disk:.2f} GiB of disk (measured here)"
    yield f"stage     validate: {len(run.config.scored)} volumes"


def _state(stage: Stage[Any], run: PlannedRun, slices: int) -> str:
    if not stage.shared:
        return (
            "finished"
            if trained(run.context.folder)
            else str(stage.settings.length(labelled_samples(run.config, run.context)))
        )
    key = f"(key {stage.digest[:12]})"
    return f"reused {key}" if stage.result(run.context).is_file() else f"{stage.settings.length(slices)} {key}"


def _predicted(run: PlannedRun, stage: str) -> str:
    estimate = run.config.estimates.get(stage)
    return "" if estimate is None else f", about {estimate.minutes:.1f} min, {estimate.gib:.2f} GiB, {estimate.how}"


def _account(run: PlannedRun) -> Iterator[str]:
    # On the meta device a network has shapes and no memory: ViT-H is described as fast as the tiny one.
    with torch.device("meta"):
        network = build_network(run.config.model)
    freeze(network, frozenset(Part(name) for name in run.method.finetune.learns))
    yield f"{'parameters':<16}{'trained':>14}{'frozen':>14}"
    counts = account(network)
    for part, (trainable, frozen) in counts.items():
        if trainable or frozen:
            yield f"  {part:<14}{trainable:>14,}{frozen:>14,}"
    yield f"  {'all':<14}{sum(t for t, _ in counts.values()):>14,}{sum(f for _, f in counts.values()):>14,}"
