"""Labelled training cases that are kept out of fine-tuning, so that post-processing can be chosen on them.

They are drawn by seed from the run's own labels, whole patients at a time: labels beyond the budget of a split stay
unseen here too, and scored cases never come into it.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from samora_pipeline.contracts.splits import Selection
from samora_pipeline.errors import DataError, UsageError


def hold_out(selection: Selection, count: int, patient: Callable[[str], str]) -> tuple[Selection, tuple[str, ...]]:
    """Divide a selection into what is learned from and at least ``count`` held-out cases.

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
        raise _cannot(selection, "labels of single slices, and components belong to whole volumes")
    patients: dict[str, list[str]] = {}
    for case in selection.cases:
        patients.setdefault(patient(case), []).append(case)
    order = sorted(patients)
    random.Random(f"held out/{selection.fold}/{selection.seed}").shuffle(order)
    held_out: list[str] = []
    while order and len(held_out) < count:
        held_out += patients[order.pop()]
    if not order:
        raise _cannot(selection, f"{count} of {len(selection.cases)} labelled cases ({len(patients)} patients)")
    kept = tuple(case for case in selection.cases if case not in held_out)
    return replace(selection, cases=kept), tuple(sorted(held_out))


def _cannot(selection: Selection, found: str) -> DataError:
    return DataError("E-SPLIT-07", selection=selection, found=found)
