"""What a run learns from and is scored on: labelled selection, pool without labels, fold, and leaks between them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from samora_pipeline.contracts.leakage import protected_names, scored_names, training_leaks
from samora_pipeline.contracts.splits import Fold, Selection, select
from samora_pipeline.contracts.stored_case import StoredCase
from samora_pipeline.paths import Roots
from trainers.finetune_settings import FinetuneSettings
from trainers.pool.candidates import LeakReport, find_candidates, hold_out, names, pool_leaks, settle
from trainers.pool.datasets import PreparedDataset
from trainers.pool.pool import Pool, make_pool
from trainers.runs.choices import Method
from trainers.runs.request import Request
from trainers.settings import FINETUNE


@dataclass(frozen=True)
class RunData:
    """What a run learns from and is scored on."""

    selection: Selection
    held_out: tuple[str, ...]
    fold: Fold
    pool: Pool | None
    leaks: LeakReport


def find_data(
    request: Request,
    method: Method,
    dataset: PreparedDataset,
    fold_name: str,
    input_size: int,
    pools: Path,
    roots: Roots,
) -> RunData:
    """Find the labelled selection, the pool without labels and the scored cases of a run, with the leaks between them.

    Args:
        request: what was typed.
        method: its settings say whether there is a pool.
        dataset: as it was preprocessed.
        fold_name: of its splits.
        input_size: of the network, in pixels.
        pools: the folder where pools are stored.
        roots: the data folders, for the datasets that are added to the pool.

    Raises:
        DataError: ``E-SPLIT-..`` no such selection, ``E-POOL-..`` a pool that cannot be made.
    """
    splits, cases, patient = dataset.splits(), dataset.fingerprint.cases, dataset.raw.patient
    whole = splits.fold(fold_name)
    scored, protected = scored_names(splits, whole), protected_names(splits, whole, cases)
    found = training_leaks(whole.train, protected, cases, patient)
    candidates = None
    if set(method.stages) - {FINETUNE} or _learns_from_pool(method.finetune):
        candidates = find_candidates(
            dataset, request.unlabeled, roots, method.pool, scored, transductive=request.transductive
        )
        if not request.transductive:
            found += pool_leaks(candidates, protected)
    leaks = settle(found, exclude=request.exclude_leaks, allow=request.allow_leak)
    taken_out = frozenset(names(leaks.excluded))
    fold = Fold(tuple(case for case in whole.train if case not in taken_out), whole.scored)
    stored = {case: dataset.cases[case] for case in fold.train if case in dataset.cases}
    labelled, blank = _labelled_slices(stored)
    drawn = select(splits, request.split, fold_name, request.seed, labelled, blank)
    if not taken_out.isdisjoint(drawn.cases):
        # It was stored with a case that is now taken out.
        drawn = select(replace(splits, selections={}), request.split, fold_name, request.seed, labelled, blank)
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
            neighbours=method.model.neighbours,
            transductive=request.transductive,
        )
    return RunData(selection, held_out, fold, pool, leaks)


def labelled_share(dataset: PreparedDataset, request: Request, fold_name: str) -> float:
    """The share of the slices of a fold's training cases, and of those without a label map, that have labels here."""
    splits = dataset.splits()
    fold = splits.fold(fold_name)
    # The fold "all" is scored on what it trains on.
    hidden = set(fold.scored) - set(fold.train)
    stored = {name: case for name, case in dataset.cases.items() if name not in hidden and case.subset != "test"}
    labelled, blank = _labelled_slices({name: case for name, case in stored.items() if name in set(fold.train)})
    drawn = select(splits, request.split, fold_name, request.seed, labelled, blank)
    whole = {name: slices - len(blank[name]) for name, slices in labelled.items()}
    own = sum(len(drawn.slices[case]) if case in drawn.slices else whole.get(case, 0) for case in drawn.cases)
    return own / max(1, sum(case.shape[0] for case in stored.values()))


def _labelled_slices(stored: Mapping[str, StoredCase]) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """How many slices the labelled of these cases have, and which of them are blank: without a single label."""
    labelled = {
        case: record.shape[0]
        for case, record in stored.items()
        if record.label_crcs is not None and len(record.blank_slices) < record.shape[0]
    }
    return labelled, {case: stored[case].blank_slices for case in labelled}


def _learns_from_pool(finetune: FinetuneSettings) -> bool:
    return finetune.consistency is not None or finetune.self_training is not None
