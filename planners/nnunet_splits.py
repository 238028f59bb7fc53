"""Folds that a user brings from nnU-Net: ``splits_final.json`` in the raw dataset's folder replaces the drawn ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.contracts.json_io import parse, read_object
from samora_pipeline.contracts.splits import Fold
from samora_pipeline.errors import DataError

NNUNET_SPLITS_FILE = "splits_final.json"


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
