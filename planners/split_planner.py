"""Plans the folds: five by patient, the published train/test split as ``official``, and ``all``.

Folds that a user brings in nnU-Net's splits_final.json take the place of the five.
Cases of a published test set that lie in imagesTr are trained on in no fold. With one case per patient the five folds
are nnU-Net's (same seed, same shuffle), so that results can be compared fold by fold.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from samora_pipeline.contracts.dataset import PublishedBudget, RawDataset
from samora_pipeline.contracts.fingerprint import CaseFingerprint, Fingerprint
from samora_pipeline.contracts.json_io import parse, read_object
from samora_pipeline.contracts.leakage import groups, protected_names, training_leaks
from samora_pipeline.contracts.plans import SliceAxis
from samora_pipeline.contracts.splits import ALL, OFFICIAL, Count, Fold, Selection, Splits, parse_budget
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.volume import slice_order

FOLDS = 5
SEED = 12345
_SHOWN = 5


NNUNET_SPLITS_FILE = "splits_final.json"


class SplitPlanner:
    """Plans the splits of one dataset from its fingerprint and the slice axis of its plan."""

    def __init__(self, dataset: RawDataset, fingerprint: Fingerprint, slice_axis: SliceAxis) -> None:
        self.dataset, self.slice_axis = dataset, slice_axis
        self.cases, self.name = fingerprint.cases, fingerprint.dataset
        self.notes: list[str] = []

    def plan(self, previous: Splits | None, axis: SliceAxis | None = None) -> tuple[Splits, tuple[str, ...]]:
        """Return all folds, the published budgets, and what still holds of ``previous``; and notes.

        ``axis`` is what the slice indices of ``previous`` refer to, None where that is not known. The notes are
        about what a reader would not expect: missing cases, fewer folds, dropped selections.

        Raises:
            DataError: ``E-SPLIT-08`` for an unusable splits_final.json.
        """
        published = self.dataset.ours.published_split
        reserved = frozenset(published.test if published else ())
        training = [name for name in self._labelled() if self.cases[name].subset == "train" and name not in reserved]
        if imported := imported_folds(self.dataset.folder, training):
            folds, notes = imported
            self.notes += notes
        else:
            folds = self.cross_validation(training)
        if official := self.official():
            folds = {OFFICIAL: official, **folds}
        folds[ALL] = Fold(tuple(training), tuple(training))
        splits = Splits(self.name, SEED, self.dataset.ours.budget_unit, folds, self.published_budgets())
        if previous is not None:
            splits = self._carry_over(splits, previous, axis)
        return splits, tuple(self.notes)

    def cross_validation(self, training: list[str]) -> dict[str, Fold]:
        """Up to five folds in which no patient and no scan is on both sides; none when there is one patient only."""
        group = groups(self.cases, training, self.dataset.patient)
        patients = sorted(set(group.values()))
        count = min(FOLDS, len(patients))
        if count < FOLDS:
            self.notes.append(f"{len(patients)} labelled patients make {count if count > 1 else 'no'} folds")
        if count < 2:
            return {}
        order = np.random.RandomState(SEED).permutation(len(patients))
        folds = {}
        for number, held_out in enumerate(np.array_split(order, count)):
            out = {patients[index] for index in held_out}
            folds[str(number)] = Fold(
                train=tuple(case for case in training if group[case] not in out),
                scored=tuple(case for case in training if group[case] in out),
            )
        return folds

    def official(self) -> Fold | None:
        """The published split as far as this copy of the data has it; None without a training or a test case."""
        published = self.dataset.ours.published_split
        if published is None:
            return None
        labelled = frozenset(self._labelled())
        train = tuple(case for case in published.train if case in labelled)
        scored = tuple(case for case in published.test if case in labelled)
        for part, wanted, present in (("training", published.train, train), ("test", published.test, scored)):
            if missing := [case for case in wanted if case not in present]:
                self.notes.append(
                    f"{len(missing)} of {len(wanted)} published {part} cases are not here: {', '.join(missing)}"
                )
        if not (train and scored):
            self.notes.append(
                f'there is no fold "{OFFICIAL}", because this copy has only one side of the published split'
            )
            return None
        return Fold(train, scored)

    def published_budgets(self) -> dict[str, PublishedBudget]:
        """The published budgets, with slice indices turned from the raw through-plane axis to the stored slices.

        One with a slice that its volume here does not have is left out and named: the others do not suffer for it.
        """
        found = {}
        for name, budget in self.dataset.ours.budgets.items():
            listed = {case: sorted(raw) for case, raw in budget.slices.items() if case in self.cases}
            beyond = [case for case, raw in listed.items() if not self._has(case, raw)]
            if beyond:
                self.notes.append(
                    f'there is no split "{name}": its published list names slices that {", ".join(beyond)} '
                    "does not have here (E-SPLIT-06)"
                )
                continue
            found[name] = replace(budget, slices={case: self._stored(case, raw) for case, raw in listed.items()})
        return found

    def _has(self, case: str, raw: list[int]) -> bool:
        count, _ = _slices(self.cases[case], self.slice_axis)
        return not raw or (raw[0] >= 0 and raw[-1] < count)

    def _stored(self, case: str, raw: list[int]) -> tuple[int, ...]:
        count, flipped = _slices(self.cases[case], self.slice_axis)
        return tuple(sorted(count - 1 - index for index in raw)) if flipped else tuple(raw)

    def _carry_over(self, splits: Splits, previous: Splits, axis: SliceAxis | None) -> Splits:
        """Keep folds that a user added and drawn selections, as long as their cases still are what they were."""
        present = frozenset(self._labelled())
        generated = {*splits.folds, OFFICIAL, ALL, *(str(number) for number in range(FOLDS))}
        own = {
            name: fold
            for name, fold in previous.folds.items()
            if name not in generated and present.issuperset((*fold.train, *fold.scored))
        }
        splits = replace(splits, folds={**splits.folds, **own})
        for key, selection in previous.selections.items():
            # A list that was published since takes the place of what was drawn under its name.
            if selection.published or (selection.fold == OFFICIAL and selection.split in splits.published):
                continue
            if self._still_holds(splits, selection, previous, axis):
                splits = splits.with_selection(selection)
            else:
                self.notes.append(f"the drawn selection {key} was dropped: its cases or slices are no longer the same")
        return splits

    def _still_holds(self, splits: Splits, selection: Selection, previous: Splits, axis: SliceAxis | None) -> bool:
        fold, before = splits.folds.get(selection.fold), previous.folds.get(selection.fold)
        if fold is None or before is None or not set(selection.cases) <= set(fold.train):
            return False
        # A name in a file runs no code from outside; what such a kind of split would choose now is not known.
        budget = None if ":" in selection.split else parse_budget(selection.split)
        # A share (or all) of the cases is another number of cases once there are others; a count stays what it is.
        relative = budget.relative if budget is not None else ":" in selection.split
        if relative and set(fold.train) != set(before.train):
            return False
        counted = isinstance(budget, Count) and budget.unit == "slices"
        if selection.slices and self.dataset.scheme.ignore is not None and not counted:
            # Which slices of a case have labels may be others now; drawn anew, it is the same where they are not.
            return False
        return not selection.slices or (
            axis == self.slice_axis
            and all(
                max(indices, default=0) < _slices(self.cases[case], self.slice_axis)[0]
                for case, indices in selection.slices.items()
            )
        )

    def _labelled(self) -> list[str]:
        return sorted(name for name, case in self.cases.items() if case.label_digest is not None)


def leak_notes(dataset: RawDataset, fingerprint: Fingerprint, splits: Splits) -> tuple[str, ...]:
    """A sentence for each fold whose training cases show a scan or a patient of its scored cases or of the test set.

    Planning only reports, because another fold may be clean; ``samora_train`` refuses to train on such a fold.
    """
    notes = []
    for name, fold in splits.folds.items():
        protected = protected_names(splits, fold, fingerprint.cases)
        leaks = training_leaks(fold.train, protected, fingerprint.cases, dataset.patient)
        if leaks and name != ALL:
            shown = "; ".join(leak.text for leak in leaks[:_SHOWN])
            more = f", and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
            notes.append(
                f"fold {name} trains on {len(leaks)} cases that it must not know ({shown}{more}); "
                "samora_train needs --exclude-leaks or --allow-leak for it"
            )
    return tuple(notes)


def _slices(case: CaseFingerprint, axis: SliceAxis) -> tuple[int, bool]:
    (raw_axis, _, _), (flipped, _, _) = slice_order(case.axes, axis)
    return case.shape[raw_axis], flipped


@dataclass(frozen=True)
class _Entry:
    train: tuple[str, ...]
    val: tuple[str, ...]


def imported_folds(folder: Path, training: list[str]) -> tuple[dict[str, Fold], list[str]] | None:
    """The folds of ``folder/splits_final.json`` by number, and sentences about them; None without such a file.

    Only cases of ``training`` are used: those that are not here, or that a published test set reserves, are left out
    and named.

    Raises:
        DataError: ``E-JSON-..`` another format, ``E-SPLIT-08`` a case on both sides or a fold with an empty side.
    """
    path = folder / NNUNET_SPLITS_FILE
    if not path.is_file():
        return None
    entries: tuple[_Entry, ...] = parse(tuple[_Entry, ...], read_object(path), str(path))
    usable = frozenset(training)
    folds, absent = {}, set()
    for number, entry in enumerate(entries):
        if both := sorted(set(entry.train) & set(entry.val)):
            raise _unusable(path, number, f"on both sides: {', '.join(both[:5])}")
        absent |= {*entry.train, *entry.val} - usable
        fold = Fold(*(tuple(case for case in side if case in usable) for side in (entry.train, entry.val)))
        if not (fold.train and fold.scored):
            raise _unusable(path, number, "no labelled case of this dataset on one side")
        folds[str(number)] = fold
    notes = [f"the folds {', '.join(folds)} are those of {NNUNET_SPLITS_FILE}"]
    if absent:
        notes.append(f"{len(absent)} cases of {NNUNET_SPLITS_FILE} are not used: {', '.join(sorted(absent)[:10])}")
    return folds, notes


def _unusable(path: Path, number: int, found: str) -> DataError:
    return DataError("E-SPLIT-08", number=number, path=path, found=f"{found} ({path})")
