"""Completing a dataset whose cases were stored by shards."""

from __future__ import annotations

import shutil

from planners.cases import list_cases
from planners.leakage import leak_notes
from planners.preparation import (
    Checked,
    Prepared,
    Request,
    previous_splits,
    remarks_of,
    replanned,
    same_cases,
    store_tasks,
)
from planners.preprocess import StoreAccount, conclude, is_stored, sweep_all
from planners.shards import SHARDS_FOLDER, agreed_record, incomplete_cases
from planners.split_planner import SplitPlanner
from samora_pipeline.contracts.dataset import RawDataset
from samora_pipeline.errors import DataError


def merge(request: Request, dataset: RawDataset) -> tuple[Checked, Prepared]:
    """Complete what shards stored: verify that they agree and that every case is there and intact, then write the plan.

    Raises:
        DataError: ``E-SHARD-01`` to ``E-SHARD-03`` and ``E-SHARD-04`` when the raw dataset has changed since.
    """
    target, name = request.target, request.raw.name
    record = agreed_record(target, name)
    plans, fingerprint = record.plans, record.fingerprint
    listed, _ = list_cases(dataset)
    sources = tuple(source for source in listed if source.name not in fingerprint.set_aside)
    if not same_cases(sources, fingerprint) or replanned(dataset, fingerprint, plans) != plans:
        raise _changed_since(name, record.count)
    tasks = store_tasks(dataset, sources, fingerprint, target, plans.slice_axis.value)
    items = [(task.source.name, task) for task in tasks]
    outcomes = request.engine.map(is_stored, items, "verifying", [task.source.bytes_on_disk for task in tasks])
    if missing := [outcome.name for outcome in outcomes if not outcome.result]:
        raise incomplete_cases(name, missing, record.count)
    planned = SplitPlanner(dataset, fingerprint, plans.slice_axis.value).plan(previous_splits(target))
    sweep_all(target)
    conclude(target, request.raw, fingerprint, plans, planned.splits)
    shutil.rmtree(target / SHARDS_FOLDER)
    leaks = leak_notes(dataset, fingerprint, planned.splits)
    checked = Checked(dataset, sources, fingerprint, remarks_of(dataset, fingerprint, listed), len(sources))
    return checked, Prepared(plans, planned.splits, (*planned.notes, *leaks), StoreAccount(0, len(tasks)))


def _changed_since(dataset: str, count: int) -> DataError:
    return DataError(
        "E-SHARD-04",
        f"{dataset} has changed since its shards were made; they were not merged",
        found="other files, another dataset.json or another samora.json",
        expected="the dataset that the shards were made from",
        fix=f"samora_plan_and_preprocess -d {dataset} --shard 1/{count}  and so on: only what changed is done again",
    )
