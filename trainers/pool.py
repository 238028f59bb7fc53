"""The unlabelled pool of stage 1, and the promise that no scored scan is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from samora_pipeline import distributed
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.run import PoolRecord
from samora_pipeline.contracts.splits import OFFICIAL, Fold, Splits
from samora_pipeline.errors import DataError, SamoraError
from samora_pipeline.slices.datasets import DEFAULT_MEMORY, JoinedSource, SliceSource, UnlabelledSource, pool_ids
from trainers.prepared import PreparedDataset


@dataclass(frozen=True)
class Pool:
    """Cases per dataset, the run's own first. ``scored`` are own cases that must stay out (``scored_names``)."""

    datasets: tuple[PreparedDataset, ...]
    record: PoolRecord
    scored: frozenset[str]

    @property
    def slices(self) -> int:
        """Stored slices of all cases, those that show only air included."""
        return sum(
            dataset.cases[case].shape[0] for dataset in self.datasets for case in self.record.cases[dataset.name]
        )

    def identity(self) -> dict[str, Any]:
        """What determines the pool: content and preprocessing of every case, and what was kept out."""
        return {
            "cases": {
                dataset.name: {case: dataset.cases[case].source_digest for case in self.record.cases[dataset.name]}
                for dataset in self.datasets
            },
            "preprocessing": {dataset.name: dataset.preprocessing() for dataset in self.datasets},
            "excluded": sorted(self.record.excluded),
        }

    def check(self) -> None:
        """Make sure, right before the first step, that no scored case is in the pool.

        Raises:
            SamoraError: ``E-POOL-02``, a fault of ours.
        """
        own = self.datasets[0]
        inside = self.scored & set(self.record.cases[own.name])
        if inside and not self.record.transductive:
            raise SamoraError(
                "E-POOL-02", "scored cases are in the unlabelled pool", found=", ".join(sorted(inside)[:5])
            )

    def source(self) -> UnlabelledSource:
        """The slices of the pool that show something, at the input size of the run's own plan."""
        own = self.datasets[0].plans
        # Every rank and every dataset keeps slices of its own, perhaps all in one machine's memory.
        memory = DEFAULT_MEMORY // (len(self.datasets) * distributed.world_size())
        sources = []
        for dataset in self.datasets:
            plans = _at_size(dataset.plans, own)
            ids = pool_ids(dataset.slices, self.record.cases[dataset.name], plans)
            sources.append(SliceSource(dataset.slices, ids, plans, memory=memory))
        return sources[0] if len(sources) == 1 else JoinedSource(sources)


def scored_names(splits: Splits, fold: Fold) -> frozenset[str]:
    """Cases that this run is scored on, and those of the published test set, which no run of the dataset may see.

    Cases that the fold also trains on are not among them (the fold ``all`` is scored on its own training cases).
    """
    published = splits.folds[OFFICIAL].scored if OFFICIAL in splits.folds else ()
    return frozenset((*fold.scored, *published)) - frozenset(fold.train)


def make_pool(
    own: PreparedDataset, others: Sequence[PreparedDataset], scored: frozenset[str], *, transductive: bool
) -> Pool:
    """Collect the training and unlabelled scans of all datasets, without the scans that the run is scored on.

    Other scans of a scored patient, and scans of another dataset whose voxels equal those of a scored scan, are kept
    out too. ``transductive`` lets all of them in, the scored scans included, without their labels.

    Raises:
        DataError: ``E-POOL-03`` when nothing is left.
    """
    cases: dict[str, tuple[str, ...]] = {}
    kept_out = set() if transductive else set(scored)
    for dataset in (own, *others):
        candidates = {name for name, stored in dataset.cases.items() if stored.subset != "test"}
        if transductive:
            candidates |= {name for name in scored if dataset is own and name in dataset.cases}
        else:
            related = _of_scored_patients(own, scored) if dataset is own else _copies(own, dataset, scored)
            hidden = candidates & related
            kept_out |= hidden if dataset is own else {f"{dataset.name}/{name}" for name in hidden}
            candidates -= related
        cases[dataset.name] = tuple(sorted(candidates))
    if not any(cases.values()):
        raise DataError(
            "E-POOL-03",
            "the unlabelled pool is empty",
            found=f"no training or unlabelled scans besides the {len(scored)} scored ones",
            expected="scans to pre-train on",
            fix="add scans to imagesUn, name another dataset with --unlabeled, or use --recipe none",
        )
    return Pool((own, *others), PoolRecord(cases, tuple(sorted(kept_out)), transductive), scored)


def _of_scored_patients(own: PreparedDataset, scored: frozenset[str]) -> set[str]:
    patients = {own.raw.patient(name) for name in scored}
    return {name for name in own.cases if own.raw.patient(name) in patients}


def _copies(own: PreparedDataset, other: PreparedDataset, scored: frozenset[str]) -> set[str]:
    """Cases of another dataset with the voxels of a scored case."""
    known = own.fingerprint.cases
    digests = {known[name].image_digests for name in scored if name in known}
    return {name for name, case in other.fingerprint.cases.items() if case.image_digests in digests}


def _at_size(plans: Plans, own: Plans) -> Plans:
    """A plan with the sizes of the run's own: windows and spacing stay those of each dataset."""
    return replace(plans, slice_size=own.slice_size, input_size=own.input_size)
