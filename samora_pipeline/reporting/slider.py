"""Worst, median and best case with a slider through their slices: scan, reference, predictions, errors (Fig. 4).

The pictures of all viewers share a budget of bytes, because the whole report has to stay small enough to be mailed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import SLICE_AXES, SliceAxis
from samora_pipeline.reporting.html_blocks import Cell, Table, Viewer, ViewerSlice, number
from samora_pipeline.reporting.pictures import errors, foreground_values, telling_slice
from samora_pipeline.reporting.report_cases import CaseStack, foreground_slices, spread
from samora_pipeline.reporting.slider_pictures import (
    Frame,
    error_legend,
    errors_address,
    frame_around,
    organ_legend,
    organs_address,
    scan_address,
)

_SIDES = {
    "R": "the patient's right",
    "L": "the patient's left",
    "A": "front",
    "P": "back",
    "S": "head",
    "I": "feet",
}
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


@dataclass(frozen=True)
class Detail:
    """How much of a case is shown: pixels of the longer side, quality of the scans, slices."""

    side: int
    quality: int
    slices: int


DETAILS = (Detail(288, 60, 32), Detail(256, 50, 24), Detail(224, 40, 20), Detail(192, 35, 14), Detail(160, 30, 8))


@dataclass(frozen=True)
class ShownCase:
    """A case to be drawn: why it was chosen, its Dice per run and organ, and what its slices hold.

    ``organs`` maps an organ to one Dice of the whole volume per run. ``names`` are short ones of the runs (A, B),
    empty where there is one. The last run is the one the case was chosen by.
    """

    role: str
    title: str
    stack: CaseStack
    organs: dict[str, tuple[float | None, ...]]
    names: tuple[str, ...] = ()


def make_viewer(case: ShownCase, labels: LabelScheme, axis: SliceAxis, stamps: tuple[str, ...], budget: int) -> Viewer:
    """Draw a case with as much detail as fits into ``budget`` bytes; the coarsest is taken where none does."""
    viewer = _viewer(case, labels, axis, stamps, DETAILS[0])
    for detail in DETAILS[1:]:
        if size_of(viewer) <= budget:
            break
        viewer = _viewer(case, labels, axis, stamps, detail)
    return viewer


def size_of(viewer: Viewer) -> int:
    """The bytes that the pictures of a viewer add to the page."""
    slices = sum(len(one.scan) + sum(map(len, one.overlays)) + len(one.text) for one in viewer.slices)
    first = viewer.slices[viewer.start]
    return slices + len(first.scan) * len(viewer.panels) + sum(map(len, first.overlays))


def _viewer(case: ShownCase, labels: LabelScheme, axis: SliceAxis, stamps: tuple[str, ...], detail: Detail) -> Viewer:
    stack = case.stack
    telling = telling_slice(stack.reference, stack.predictions[-1], labels, by_error=case.role == "worst")
    shown = spread(foreground_slices(stack, labels) or [telling], detail.slices, telling)
    frame = _frame(stack, labels, detail)
    slices = tuple(_slice(case, index, frame, labels, stamps, detail) for index in shown)
    return Viewer(
        name=f"case-{case.role.replace(' ', '-')}",
        title=case.title,
        caption=_caption(axis, len(shown), len(stack.reference)),
        panels=_panels(case.names),
        width=frame.width,
        height=frame.height,
        slices=slices,
        start=shown.index(telling),
        legends=(organ_legend(labels), error_legend()),
        table=_table(case, labels),
    )


def _panels(names: tuple[str, ...]) -> tuple[str, ...]:
    """Titles in the order of the overlays; with several runs a row of predictions above a row of errors."""
    if not names:
        return ("Scan", "Reference", "Prediction", "Errors")
    predictions, wrong = ([f"{word} {name}" for name in names] for word in ("Prediction", "Errors"))
    return ("Scan", *predictions, "Reference", *wrong)


def _frame(stack: CaseStack, labels: LabelScheme, detail: Detail) -> Frame:
    values = foreground_values(labels)
    held = np.zeros(stack.reference.shape[1:], dtype=np.bool_)
    for labelled in (stack.reference, *stack.predictions):
        held |= np.isin(labelled, values).any(axis=0)
    return frame_around(held, stack.aspect, detail.side)


def _slice(
    case: ShownCase, index: int, frame: Frame, labels: LabelScheme, stamps: tuple[str, ...], detail: Detail
) -> ViewerSlice:
    stack = case.stack
    reference = stack.reference[index]
    predictions = [prediction[index] for prediction in stack.predictions]
    organs = [organs_address(frame, labelled, labels) for labelled in (reference, *predictions)]
    wrong = [errors_address(frame, reference, prediction, labels) for prediction in predictions]
    overlays = (*organs, *wrong) if len(predictions) == 1 else (*organs[1:], organs[0], *wrong)
    text = f"slice {index + 1} of {len(stack.reference)}, {_wrong(case, reference, predictions, labels)}"
    return ViewerSlice(text, scan_address(frame, stack.images[index, 0], stamps, detail.quality), overlays)


def _wrong(case: ShownCase, reference: np.ndarray, predictions: Sequence[np.ndarray], labels: LabelScheme) -> str:
    counts = [
        str(int(sum(mask.sum() for mask in errors(reference, prediction, labels).values())))
        for prediction in predictions
    ]
    return f"{' against '.join(counts)} wrong pixels"


def _caption(axis: SliceAxis, shown: int, total: int) -> str:
    down, right = SLICE_AXES[axis][1], SLICE_AXES[axis][2]
    part = f"All {total} {axis} slices" if shown == total else f"{shown} of {total} {axis} slices, those with organs"
    return (
        f"{part}; the part around the organs. Top of the picture: {_SIDES[_OPPOSITE[down]]}; left: "
        f"{_SIDES[_OPPOSITE[right]]}. The slider moves with the arrow keys. The white line among the errors is the "
        "outline of the reference."
    )


def _table(case: ShownCase, labels: LabelScheme) -> Table:
    """Dice and the kinds of errors over the whole volume, as numbers beside the pictures."""
    stack = case.stack
    runs = case.names or ("",)
    header = ["organ", *(f"Dice {name}".strip() for name in runs)]
    header += ["reference voxels", *(f"predicted {name}".strip() for name in runs)]
    rows = []
    for organ, values in labels.foreground:
        sizes = [int(np.isin(labelled, values).sum()) for labelled in (stack.reference, *stack.predictions)]
        rows.append(
            (
                Cell(organ, organ),
                *(number(dice, 3) for dice in case.organs.get(organ, ())),
                *(Cell(str(size), float(size)) for size in sizes),
            )
        )
    name = f"table-{case.role.replace(' ', '-')}"
    notes = []
    for run, prediction in zip(runs, stack.predictions, strict=True):
        kinds = errors(stack.reference, prediction, labels)
        counts = ", ".join(f"{int(mask.sum())} {_KINDS[kind]}" for kind, mask in kinds.items())
        notes.append(f"Voxels in error{f' {run}' if run else ''}: {counts}.")
    return Table(name, f"{case.stack.name}, whole volume", tuple(header), tuple(rows), notes=tuple(notes))


_KINDS = {"missed": "missed", "false": "predicted where nothing is", "confused": "taken for another organ"}
