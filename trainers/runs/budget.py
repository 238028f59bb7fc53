"""How long the stages of a run take here, and how many epochs a time budget allows."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from samora_pipeline import distributed
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, Choice, Estimate, RunConfig
from samora_pipeline.resources import resident
from trainers.settings import FINETUNE
from trainers.stages.probe import StageCost, probe
from trainers.stages.stage import RunContext, Stage

EPOCHS = "epochs"
_UNLABELLED_SHARE = 0.25
"""of a budget, at most, for the stages without labels (ours); longer ones brought nothing (docs/results.md)"""
_MINUTE = 60.0


def measure(run: RunConfig, context: RunContext) -> dict[str, StageCost]:
    """What each stage that has to be trained takes; those that are there already are left out."""
    labelled = labelled_samples(run, context)
    draft = replace(context, draft=True)
    unlabelled = context.pool.slices if context.pool else 0
    held = resident()
    return {
        name: probe(stage, run, draft, unlabelled if stage.shared else labelled, held)
        for name, stage in context.stages.items()
        if _is_due(stage, context)
    }


def labelled_slices(run: RunConfig, context: RunContext) -> int:
    """How many labelled slices a run learns from."""
    selection, cases = run.selection, context.dataset.cases
    whole = {case: range(cases[case].shape[0]) for case in selection.cases if case in cases}
    return sum(len(selection.slices.get(case, whole.get(case, ()))) for case in selection.cases)


def labelled_samples(run: RunConfig, context: RunContext) -> int:
    """How many labelled samples a run learns from: slices, or cases where its network takes whole volumes."""
    return labelled_slices(run, context) if run.model.volume is None else len(run.selection.cases)


def estimates(costs: Mapping[str, StageCost]) -> dict[str, Estimate]:
    """The costs in minutes and GiB, and how each stage is made to fit."""
    return {
        name: Estimate(
            round(cost.seconds / _MINUTE, 2), round(cost.bytes / 2**30, 3), str(cost.fit), round(cost.disk / 2**30, 3)
        )
        for name, cost in costs.items()
    }


def fit_epochs(
    settings: Mapping[str, Any], costs: Mapping[str, StageCost], minutes: float, typed: frozenset[str]
) -> dict[str, Choice]:
    """Choose the epochs of every stage for a time budget.

    The stages without labels keep their length where that is at most a quarter of the budget; else it is halved until
    it is, down to one epoch, so that runs of different budgets still share experts. Fine-tuning has the rest.

    Args:
        settings: of the stages, by name.
        costs: what they take at the length of ``settings``.
        minutes: of training in all.
        typed: names of settings that were typed (``finetune.epochs``), which stay.

    Returns:
        The epochs by name of the setting.
    """
    budget = minutes * _MINUTE
    choices: dict[str, Choice] = {}
    unlabelled = {name: cost for name, cost in costs.items() if name != FINETUNE}
    halvings, spent = 0, sum(cost.seconds for cost in unlabelled.values())
    while spent > _UNLABELLED_SHARE * budget and halvings < 3:
        halvings += 1
        spent /= 2
    if halvings:
        for name in unlabelled:
            setting = f"{name}.{EPOCHS}"
            if setting not in typed:
                epochs = max(1, settings[name].epochs >> halvings)
                why = f"instead of {settings[name].epochs}: stage 1 may take a quarter of {minutes:g} minutes"
                choices[setting] = Choice(epochs, why)
    setting = f"{FINETUNE}.{EPOCHS}"
    if setting not in typed and FINETUNE in costs:
        per_epoch = costs[FINETUNE].seconds / settings[FINETUNE].epochs
        epochs = _two_digits(max(1, int((budget - spent) / per_epoch)))
        why = f"{minutes:g} minutes less {spent / _MINUTE:.1f} of stage 1, {per_epoch:.2f} s an epoch here"
        choices[setting] = Choice(epochs, why)
    return choices


def of_main_rank(settings: Mapping[str, Any], own: Mapping[str, Choice]) -> dict[str, Choice]:
    """The epochs that the main rank has chosen, on every rank: each has timed for itself."""
    if distributed.world_size() == 1:
        return dict(own)
    names = {f"{name}.{EPOCHS}": stage.epochs for name, stage in settings.items()}
    mine = [float(own[name].value if name in own else usual) for name, usual in names.items()]
    found = distributed.sum_over_ranks(torch.tensor(mine) * float(distributed.is_main())).tolist()
    values = {name: int(value) for name, value in zip(names, found, strict=True)}
    usual = Choice(0, "as timed by the main process")
    return {
        name: own[name] if name in own and own[name].value == value else replace(usual, value=value)
        for name, value in values.items()
        if value != names[name]
    }


def with_epochs(settings: Mapping[str, Any], choices: Mapping[str, Choice]) -> dict[str, Any]:
    """The settings with the epochs that were chosen."""
    chosen = {name: choices.get(f"{name}.{EPOCHS}") for name in settings}
    return {
        name: own if (choice := chosen[name]) is None else replace(own, epochs=int(choice.value))
        for name, own in settings.items()
    }


def _is_due(stage: Stage[Any], context: RunContext) -> bool:
    there = stage.result(context) if stage.shared else context.folder / FINAL_CHECKPOINT
    return stage.trains() and not there.is_file()


def _two_digits(number: int) -> int:
    """Round down to two digits."""
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return number // unit * unit
