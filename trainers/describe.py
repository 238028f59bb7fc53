"""A run in words, before anything is done: what is trained on what, for how long, and how much of it is trained."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator

import torch

from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.freezing import Part, account, freeze
from samora_pipeline.paths import Roots
from samora_pipeline.weights.catalog import ASSETS
from trainers.artefacts import Artefact
from trainers.config import FinetuneSettings
from trainers.planning import RunPlan
from trainers.pretraining_config import PretrainingSettings
from trainers.recipes import RECIPES
from trainers.run_folder import trained


def describe(plan: RunPlan, roots: Roots) -> str:
    """The plan as text, one fact per line."""
    return "\n".join((*_head(plan, roots), *_pool(plan), *_leaks(plan), *_stages(plan), *_account(plan)))


def describe_settings(plan: RunPlan) -> str:
    """The resolved settings of the run's stages as JSON."""
    return json.dumps(plan.config.settings, indent=2)


def _head(plan: RunPlan, roots: Roots) -> Iterator[str]:
    config, choices = plan.config, plan.choices
    selection = config.selection
    yield f"root      {roots.root} ({roots.origin})"
    yield f"run       {plan.folder}"
    yield f"network   {choices.backbone} at {config.model.input_size} px, {config.model.num_outputs} outputs"
    yield f"base      {config.base.origin}: {config.base.name} {config.base.digest[:12] or '(not trained yet)'}"
    if plan.base.awaited:
        yield f"fetch     {ASSETS[config.base.name].terms}"
    yield f"experts   {', '.join(config.model.levels) or 'none'}"
    yield f"recipe    {config.recipe}: {RECIPES[config.recipe].summary}"
    for teacher in plan.teachers.values():
        yield f"teacher   {teacher.level.value}: {teacher.text}"
        if teacher.record.origin == "public" and teacher.file is None:
            yield f"fetch     {ASSETS[teacher.record.weights].terms}"
    origin = "published" if selection.published else f"drawn with seed {selection.seed}"
    where = f"{config.split}, fold {config.fold}, {origin}"
    yield f"labelled  {_labelled(plan)} slices of {len(selection.cases)} cases ({where})"
    yield f"scored    {len(config.scored)} cases"
    for name, value in choices.changes.items():
        yield f"changed   {name} = {value}"
    for stamp in config.stamps:
        yield f"stamp     {stamp}"


def _pool(plan: RunPlan) -> Iterator[str]:
    pool = plan.pool
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
    scored = "scored cases let in" if pool.record.transductive else "no scored case"
    yield f"pool      {pool.stored} slices in all, {wanted}; {scored}; intensity {pool.settings.intensity}"
    yield f"pool      list of slices: {pool.file}"


def _leaks(plan: RunPlan) -> Iterator[str]:
    report = plan.leaks
    states = {"taken out": report.excluded, "let in by name": report.allowed, "nothing said": report.unsettled}
    for state, leaks in states.items():
        for leak in leaks:
            yield f"leak      {leak.text} ({leak.place}, {state})"


def _stages(plan: RunPlan) -> Iterator[str]:
    settings = plan.choices.settings
    for artefact in plan.artefacts:
        slices = plan.pool.slices if plan.pool else 0
        yield f"stage     {artefact.stage}: {_artefact_state(artefact, getattr(settings, artefact.stage), slices)}"
    if trained(plan.folder):
        yield "stage     finetune: finished"
    else:
        yield f"stage     finetune: {_length(settings.finetune, _labelled(plan))}"
    yield f"stage     validate: {len(plan.config.scored)} volumes"


def _artefact_state(artefact: Artefact, settings: PretrainingSettings, slices: int) -> str:
    if artefact.done:
        return f"reused (key {artefact.key})"
    return f"{_length(settings, slices)} (key {artefact.key})"


def _length(settings: PretrainingSettings | FinetuneSettings, slices: int) -> str:
    batch = min(settings.batch, slices)
    steps = min(math.ceil(slices / max(1, batch)), settings.steps_per_epoch or slices)
    return f"{settings.epochs} epochs of at most {steps} steps, batches of {batch}"


def _labelled(plan: RunPlan) -> int:
    selection, cases = plan.config.selection, plan.dataset.cases
    whole = {case: range(cases[case].shape[0]) for case in selection.cases if case in cases}
    return sum(len(selection.slices.get(case, whole.get(case, ()))) for case in selection.cases)


def _account(plan: RunPlan) -> Iterator[str]:
    # On the meta device a network has shapes and no memory: ViT-H is described as fast as the tiny one.
    with torch.device("meta"):
        network = build_network(plan.config.model)
    freeze(network, frozenset(Part(name) for name in plan.choices.trainer.parts))
    yield f"{'parameters':<16}{'trained':>14}{'frozen':>14}"
    counts = account(network)
    for part, (trainable, frozen) in counts.items():
        if trainable or frozen:
            yield f"  {part:<14}{trainable:>14,}{frozen:>14,}"
    yield f"  {'all':<14}{sum(t for t, _ in counts.values()):>14,}{sum(f for _, f in counts.values()):>14,}"
