"""Worst, median and best case with a slider through their slices: scan, reference, predictions, errors (Fig. 4).

The pictures of all viewers share a budget of bytes, because the whole report has to stay small enough to be mailed.
"""

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import SLICE_AXES, SliceAxis
from samora_pipeline.imaging.volume import OPPOSITE
from samora_pipeline.reporting import painting, pictures
from samora_pipeline.reporting.html_blocks import Table, Viewer
from samora_pipeline.reporting.html_images import flag_strip, palette_address, webp_address
from samora_pipeline.reporting.overlays import SIDES
from samora_pipeline.reporting.painting import Frame
from samora_pipeline.reporting.pictures import CaseStack, Labels, ShownCase

_ONE_LINE = 18
"""pixels of a strip of warnings; more of them cover at most a third of a picture"""
_KINDS = {"missed": "missed", "false": "predicted where nothing is", "confused": "taken for another organ"}


Detail = tuple[int, int, int]

DETAILS: tuple[Detail, ...] = ((288, 60, 32), (256, 50, 24), (224, 40, 20), (192, 35, 14), (160, 30, 8))
"""how much of a case is shown: pixels of the longer side, quality of the scans, slices"""


def make_viewer(
    case: ShownCase, labels: LabelScheme, axis: SliceAxis, warnings: tuple[str, ...], budget: int
) -> Viewer:
    """Draw a case with as much detail as fits into ``budget`` bytes; the coarsest is taken where none does."""
    viewer = _viewer(case, labels, axis, warnings, DETAILS[0])
    for detail in DETAILS[1:]:
        if size_of(viewer) <= budget:
            break
        viewer = _viewer(case, labels, axis, warnings, detail)
    return viewer


def size_of(viewer: Viewer) -> int:
    """The bytes that the pictures of a viewer add to the page."""
    slices = sum(len(part) for one in viewer.slices for part in one)
    _, scan, *overlays = viewer.slices[viewer.start]
    return slices + len(scan) * len(viewer.panels) + sum(map(len, overlays))


def _viewer(case: ShownCase, labels: LabelScheme, axis: SliceAxis, warnings: tuple[str, ...], detail: Detail) -> Viewer:
    stack, (side, quality, most) = case.stack, detail
    first = case.first_slice(labels)
    shown = pictures.evenly(pictures.foreground_slices(stack, labels) or [first], most, first)
    frame = painting.frame_around(pictures.seen_along(labels, stack.reference, *stack.predictions), stack.aspect, side)
    slices = tuple(
        (
            f"slice {index + 1} of {len(stack.reference)}, {_wrong_pixels(stack, index, labels)}",
            scan_address(frame, stack.images[index, 0], warnings, quality),
            *_overlays(stack, index, frame, labels),
        )
        for index in shown
    )
    return Viewer(
        name=f"case-{case.role.replace(' ', '-')}",
        title=case.title,
        caption=_caption(axis, len(shown), len(stack.reference)),
        panels=_panels(case.names),
        width=frame.width,
        height=frame.height,
        slices=slices,
        start=shown.index(first),
        legends=(painting.organ_legend(labels), painting.error_legend()),
        table=_table(case, labels),
    )


def _panels(names: tuple[str, ...]) -> tuple[str, ...]:
    """Titles of the scan and of what ``_overlays`` returns."""
    if not names:
        return ("Scan", "Reference", "Prediction", "Errors")
    predictions, wrong = ([f"{word} {name}" for name in names] for word in ("Prediction", "Errors"))
    return ("Scan", *predictions, "Reference", *wrong)


def _overlays(stack: CaseStack, index: int, frame: Frame, labels: LabelScheme) -> tuple[str, ...]:
    """The layers of one slice; with several runs the predictions fill a row with the scan, the errors the next one."""
    reference, predicted = stack.reference[index], [prediction[index] for prediction in stack.predictions]
    truth, *guesses = (painting.organs_layer(frame, labelled, labels) for labelled in (reference, *predicted))
    wrong = [painting.errors_layer(frame, reference, prediction, labels) for prediction in predicted]
    layers = [truth, *guesses, *wrong] if len(guesses) == 1 else [*guesses, truth, *wrong]
    return tuple(palette_address(layer.indices, layer.colours) for layer in layers)


def scan_address(frame: Frame, image: npt.NDArray[np.float32], warnings: tuple[str, ...], quality: int) -> str:
    """The scan as WebP, flagged inside its upper edge so that overlays keep their place."""
    picture = frame.scan(image)
    if warnings:
        strip = flag_strip(warnings, frame.width)
        picture = picture.convert("RGB")
        picture.paste(strip.crop((0, 0, frame.width, min(strip.height, max(_ONE_LINE, frame.height // 3)))), (0, 0))
    return webp_address(picture, quality)


def _wrong_pixels(stack: CaseStack, index: int, labels: LabelScheme) -> str:
    def count(prediction: Labels) -> int:
        return sum(
            int(mask.sum()) for mask in pictures.errors(stack.reference[index], prediction[index], labels).values()
        )

    return f"{' against '.join(str(count(prediction)) for prediction in stack.predictions)} wrong pixels"


def _caption(axis: SliceAxis, shown: int, total: int) -> str:
    down, right = SLICE_AXES[axis][1], SLICE_AXES[axis][2]
    part = f"All {total} {axis} slices" if shown == total else f"{shown} of {total} {axis} slices, those with organs"
    return (
        f"{part}; the part around the organs. Top of the picture: {SIDES[OPPOSITE[down]]}; left: "
        f"{SIDES[OPPOSITE[right]]}. The slider moves with the arrow keys. The white line among the errors is the "
        "outline of the reference."
    )


def _table(case: ShownCase, labels: LabelScheme) -> Table:
    """Dice and the kinds of errors over the whole volume, as numbers beside the pictures."""
    stack = case.stack
    runs = case.names or ("",)
    header = ("organ", *(f"Dice {name}".strip() for name in runs))
    header += ("reference voxels", *(f"predicted {name}".strip() for name in runs))
    rows = [
        (
            organ,
            *case.organs.get(organ, ()),
            *(int(np.isin(labelled, values).sum()) for labelled in (stack.reference, *stack.predictions)),
        )
        for organ, values in labels.foreground
    ]
    notes = []
    for run, prediction in zip(runs, stack.predictions, strict=True):
        kinds = pictures.errors(stack.reference, prediction, labels)
        counts = ", ".join(f"{int(mask.sum())} {_KINDS[kind]}" for kind, mask in kinds.items())
        notes.append(f"Voxels in error{f' {run}' if run else ''}: {counts}.")
    return Table(f"table-{case.role.replace(' ', '-')}", f"{stack.name}, whole volume", header, rows, notes=notes)
