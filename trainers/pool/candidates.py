"""Which cases a run may learn from, and why the others stay out: pool candidates, leaks and held-out cases."""

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from samora_pipeline.contracts.leakage import Leak, copy_of, telling_digests, voxel_index
from samora_pipeline.contracts.splits import OFFICIAL, Selection
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.paths import Roots
from trainers.pool.datasets import PoolSettings, PreparedDataset, find_pool_datasets

Reason = Literal["scored", "of a scored patient", "test", "not CT", "a leak", "a copy"]


_SHOWN = 10


@dataclass(frozen=True)
class Candidates:
    """All cases of the datasets of a pool, by dataset, each with the reason why it stays out (None: it comes in).

    ``missing`` are the paper's datasets that are not there.
    """

    own: PreparedDataset
    datasets: tuple[PreparedDataset, ...]
    reasons: Mapping[str, Mapping[str, Reason | None]]
    missing: tuple[str, ...] = ()

    def label(self, dataset: PreparedDataset, case: str) -> str:
        """The name of a case, with its dataset where that is not the run's own."""
        return case if dataset.name == self.own.name else f"{dataset.name}/{case}"

    def cases(self, dataset: PreparedDataset) -> tuple[str, ...]:
        """The cases of a dataset that come in."""
        return tuple(case for case, reason in self.reasons[dataset.name].items() if reason is None)

    def every(self) -> Iterator[tuple[PreparedDataset, str]]:
        """All cases that come in, in order."""
        for dataset in self.datasets:
            for case in self.cases(dataset):
                yield dataset, case

    def labels(self, *reasons: Reason) -> frozenset[str]:
        """The names of the cases that stay out for one of ``reasons``."""
        return frozenset(
            self.label(dataset, case)
            for dataset in self.datasets
            for case, reason in self.reasons[dataset.name].items()
            if reason in reasons
        )

    def without(self, labels: Collection[str], because: Reason) -> Self:
        """The same, with the named cases left out."""
        reasons = {
            dataset.name: {
                case: because if reason is None and self.label(dataset, case) in labels else reason
                for case, reason in self.reasons[dataset.name].items()
            }
            for dataset in self.datasets
        }
        return replace(self, reasons=reasons)

    def copies(self) -> frozenset[str]:
        """Cases that come in although all their channels are those of a case before them."""
        seen: set[tuple[str, ...]] = set()
        copies = set()
        for dataset, case in self.every():
            digests = telling_digests(dataset.fingerprint.cases[case])
            if digests and digests in seen:
                copies.add(self.label(dataset, case))
            seen.add(digests)
        return frozenset(copies)


def find_candidates(
    own: PreparedDataset,
    tokens: Sequence[str],
    roots: Roots,
    settings: PoolSettings,
    scored: frozenset[str],
    *,
    transductive: bool,
) -> Candidates:
    """Sort the cases of the datasets that ``tokens`` name, see ``find_pool_datasets``.

    Kept out are test cases and cases of a published test set, of any dataset; the cases that the run is scored on and
    other scans of their patients; and cases that are no CT where the paper's rule asks for CT. ``transductive`` lets
    the scored cases, their patients and published test sets in, without their labels.
    """
    found, missing = find_pool_datasets(own, tokens, roots, settings)
    reasons: dict[str, dict[str, Reason | None]] = {}
    for dataset, keep in found.values():
        is_own, folds = dataset.name == own.name, dataset.splits().folds
        hidden = scored if is_own else frozenset(folds[OFFICIAL].scored if OFFICIAL in folds else ())
        patients = {dataset.raw.patient(name) for name in hidden}
        of_dataset = reasons.setdefault(dataset.name, {})
        for name, stored in sorted(dataset.cases.items()):
            of_dataset[name] = None
            if not keep(name):
                of_dataset[name] = "not CT"
            elif transductive:
                of_dataset[name] = "test" if stored.subset == "test" and not (is_own and name in scored) else None
            elif name in hidden:
                of_dataset[name] = "scored"
            elif stored.subset == "test":
                of_dataset[name] = "test"
            elif dataset.raw.patient(name) in patients:
                of_dataset[name] = "of a scored patient"
    return Candidates(own, tuple(dataset for dataset, _ in found.values()), reasons, missing)


def pool_leaks(candidates: Candidates, protected: frozenset[str]) -> tuple[Leak, ...]:
    """Cases that would come in and show a protected scan of the run's own dataset, under whatever name."""
    own = candidates.own
    index = voxel_index(own.fingerprint.cases, protected)
    found = ((dataset, case, copy_of(dataset.fingerprint.cases[case], index)) for dataset, case in candidates.every())
    return tuple(
        Leak(candidates.label(dataset, case), other, "voxels", "pool")
        for dataset, case, other in found
        if other is not None
    )


@dataclass(frozen=True)
class LeakReport:
    """All leaks of a run: those excluded, those included by name, and those that no option covers."""

    excluded: tuple[Leak, ...] = ()
    allowed: tuple[Leak, ...] = ()
    unsettled: tuple[Leak, ...] = ()

    def require_settled(self) -> None:
        """Refuse leaks that no option covers.

        Raises:
            DataError: ``E-LEAK-01`` a training case shares a patient, ``E-LEAK-02`` a scan, with the scored ones;
                ``E-LEAK-03`` such a scan is in the unlabelled pool.
        """
        leaks, training = self.unsettled, [leak for leak in self.unsettled if leak.place == "training"]
        if not leaks:
            return
        if not training:
            code, what = "E-LEAK-03", f"{len(leaks)} scans of the unlabelled pool are scored or tested on"
        elif any(leak.reason == "voxels" for leak in training):
            code, what = "E-LEAK-02", f"{len(training)} training cases overlap the validation or test cases"
        else:
            code, what = "E-LEAK-01", f"{len(training)} training cases are of patients that are scored or tested on"
        shown = "; ".join(leak.text for leak in leaks[:_SHOWN])
        more = f"; and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
        few = " ".join(names(leaks)) if len(leaks) <= _SHOWN else "CASE ..."
        raise DataError(
            code,
            what,
            found=shown + more,
            expected="no overlap between training or pool scans and the validation or test scans, under any file name",
            fix="the same command with --exclude-leaks, which drops them"
            f"\n       or with --allow-leak {few}, which includes them and flags every report LEAKY",
        )


def settle(leaks: Iterable[Leak], *, exclude: bool, allow: Collection[str]) -> LeakReport:
    """Sort leaks by the options; a case that is allowed by name is not dropped."""
    every = tuple({leak.case: leak for leak in leaks}.values())
    allowed = tuple(leak for leak in every if leak.case in allow)
    rest = tuple(leak for leak in every if leak.case not in allow)
    return LeakReport(rest, allowed, ()) if exclude else LeakReport((), allowed, rest)


def names(leaks: Iterable[Leak]) -> tuple[str, ...]:
    """The cases of leaks, sorted."""
    return tuple(sorted(leak.case for leak in leaks))


def hold_out(selection: Selection, count: int, patient: Callable[[str], str]) -> tuple[Selection, tuple[str, ...]]:
    """Divide a selection into what is learned from and at least ``count`` cases to choose post-processing on.

    They are drawn by seed from the run's own labels, whole patients at a time: labels beyond the budget of a split
    stay unseen here too, and scored cases never come into it.

    Args:
        selection: the labelled cases of the run.
        count: how many cases to hold out; 0 leaves the selection as it is.
        patient: the patient of a case. Patients are not divided, so a few cases more may be held out.

    Raises:
        UsageError: ``E-SET-05`` a negative number.
        DataError: ``E-SPLIT-07`` when labels belong to slices and not to whole scans, or nothing would be left.
    """
    if count < 0:
        raise UsageError("E-SET-05", found=str(count))
    if count == 0:
        return selection, ()
    if selection.slices:
        raise DataError(
            "E-SPLIT-07", selection=selection, found="labels of single slices, and components belong to whole volumes"
        )
    patients: dict[str, list[str]] = {}
    for case in selection.cases:
        patients.setdefault(patient(case), []).append(case)
    order = sorted(patients)
    random.Random(f"held out/{selection.fold}/{selection.seed}").shuffle(order)
    held_out: list[str] = []
    while order and len(held_out) < count:
        held_out += patients[order.pop()]
    if not order:
        raise DataError(
            "E-SPLIT-07",
            selection=selection,
            found=f"{count} of {len(selection.cases)} labelled cases ({len(patients)} patients)",
        )
    kept = tuple(case for case in selection.cases if case not in held_out)
    return replace(selection, cases=kept), tuple(sorted(held_out))
