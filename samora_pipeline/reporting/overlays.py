"""Single slices as one picture: image, reference, prediction and errors side by side (the layout of SAMora's Fig. 4).

Slices stand as a radiologist expects them, and each picture says which side is which. Shapes: H W rows and columns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageDraw

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import SLICE_AXES, SliceAxis
from samora_pipeline.files import atomic_path
from samora_pipeline.imaging.volume import OPPOSITE, Volume, labels_to_slices, slice_geometry, to_slices
from samora_pipeline.reporting import painting
from samora_pipeline.reporting.html_blocks import Swatch
from samora_pipeline.reporting.html_images import flagged, font
from samora_pipeline.reporting.pictures import ShownCase, seen_along

SIDES = {"R": "the patient's right", "L": "the patient's left", "A": "front", "P": "back", "S": "head", "I": "feet"}
_PANEL, _LEGEND, _LINE, _TEXT = 290, 300, 19, 13
_DICE = "Dice compares the whole volumes: 1 is perfect, 0 is no overlap. Each organ has its colour in every row."
# The part around the organs is enlarged when it is smaller than this share of the slice.
_ENLARGE_BELOW = 0.7
# Of the slices that hold labels, in the order of their position.
_SHARES = (0.25, 0.5, 0.75)
_CHECKED = 340
"""pixels of the longer side of a slice whose labels are checked"""


def draw_overlays(
    path: Path, cases: Iterable[ShownCase], labels: LabelScheme, axis: SliceAxis, warnings: Sequence[str] = ()
) -> None:
    """Write one PNG with a slice of each case; ``warnings`` (such as PHANTOM) are burned into it.

    Raises:
        ValueError: without cases.
    """
    letters = "".join(OPPOSITE[direction] + direction for direction in reversed(SLICE_AXES[axis][1:]))
    width = 4 * (_PANEL + 4) + _LEGEND
    foot = [*painting.error_legend().entries, Swatch("white", "outline of the reference")]
    # One after the other: a generator need not hold the slices of all cases at once.
    rows = [part for case in cases for part in _row(case, labels, axis, width)]
    if not rows:
        raise ValueError("there is no case to draw")
    foot += [Swatch("white", "ignored, not scored", striped=True)] * (labels.ignore is not None)
    parts = [
        written(_DICE, width),
        written(f"Letters at the edges: {', '.join(f'{letter} {SIDES[letter]}' for letter in letters)}.", width),
        *rows,
        written("Colours of the last column:", width),
        _entries(foot, width, len(foot)),
    ]
    save(path, below(parts), warnings)


def draw_label_check(path: Path, image: Volume, label: Volume, title: str) -> None:
    """Write a PNG of three axial slices with all labels, both arrays laid over each other by index.

    Raises:
        ValueError: when the two differ in shape.
    """
    if image.grid.shape != label.grid.shape:
        raise ValueError(f"image {image.grid.shape} and label {label.grid.shape} differ in shape")
    geometry = slice_geometry(image.grid, "axial")
    slices, _ = to_slices((image,), "axial")
    labels = labels_to_slices(label, geometry)
    held = np.flatnonzero(labels.any(axis=(1, 2)))
    held = held if held.size else np.arange(len(labels))
    chosen = [int(held[round(share * (held.size - 1))]) for share in _SHARES]
    low, high = np.percentile(slices[chosen], (0.5, 99.5))
    shown = np.clip((slices[chosen, 0] - low) / (max(high, low + 1) - low), 0, 1).astype(np.float32)
    scheme = LabelScheme({str(value): (int(value),) for value in np.unique(labels[labels > 0])})
    frame = painting.frame_around(
        np.ones(shown.shape[1:], dtype=np.bool_), geometry.spacing[1] / geometry.spacing[2], _CHECKED
    )
    tiles = [
        (f"slice {index}", painting.organs_layer(frame, labels[index], scheme, numbered=False).on(frame.scan(one)))
        for index, one in zip(chosen, shown, strict=True)
    ]
    drawn = painting.sheet(tiles, len(tiles))
    save(path, below([written(title, drawn.width, bold=True), drawn]), ())


def _row(case: ShownCase, labels: LabelScheme, axis: SliceAxis, width: int) -> list[PIL.Image.Image]:
    """The title, and the four panels with the legend beside them."""
    stack, index = case.stack, case.first_slice(labels)
    shown = (stack.reference[index], stack.predictions[-1][index])
    held = seen_along(labels, *(one[None] for one in shown))
    whole = painting.frame_around(np.ones_like(held), stack.aspect, _PANEL)
    part = painting.frame_around(held, stack.aspect, _PANEL)
    share = max((part.bottom - part.top) / held.shape[0], (part.right - part.left) / held.shape[1])
    enlarged = share < _ENLARGE_BELOW
    frame = part if enlarged else whole
    pixels = stack.images[index, 0]
    scan, image = frame.scan(pixels), whole.scan(pixels).convert("RGB")
    if enlarged:
        scale = whole.width / held.shape[1], whole.height / held.shape[0]
        corners = (part.left * scale[0], part.top * scale[1], part.right * scale[0] - 1, part.bottom * scale[1] - 1)
        ImageDraw.Draw(image).rectangle(corners, outline="white")
    panels = [
        image,
        *(painting.organs_layer(frame, labelled, labels).on(scan) for labelled in shown),
        painting.errors_layer(frame, *shown, labels).on(scan.point(lambda value: value // 2)),
    ]
    names = ["Image", *(f"{name}{' (enlarged)' * enlarged}" for name in ("Reference", "Prediction", "Errors"))]
    for panel in panels:
        _write_sides(panel, axis)
    dice = (case.organs.get(name, [None])[-1] for name, _ in labels.foreground)
    organs = [
        replace(entry, text=f"{entry.text}: {'absent' if score is None else f'{score:.3f}'}")
        for entry, score in zip(painting.organ_legend(labels).entries, dice, strict=True)
    ]
    legend = _entries(organs, _LEGEND, 1)
    drawn = painting.sheet(list(zip(names, panels, strict=True)), 4)
    row = PIL.Image.new("RGB", (width, max(drawn.height, legend.height + _LINE)), "white")
    row.paste(drawn, (0, 0))
    row.paste(below([written("Organ: Dice", _LEGEND), legend]), (width - _LEGEND, 0))
    title = f"{case.title} ({axis} slice {index + 1} of {len(stack.images)})"
    return [written(title, width, bold=True), row]


def _write_sides(panel: PIL.Image.Image, axis: SliceAxis) -> None:
    down, right = SLICE_AXES[axis][1], SLICE_AXES[axis][2]
    pen, (width, height) = ImageDraw.Draw(panel), panel.size
    middle, centre = width / 2, height / 2
    vertical = ((middle, 8, OPPOSITE[down]), (middle, height - 8, down))
    for x, y, letter in (*vertical, (8, centre, OPPOSITE[right]), (width - 8, centre, right)):
        pen.text((x, y), letter, fill="white", font=font(10), anchor="mm", stroke_width=2, stroke_fill="black")


def written(text: str, width: int, *, bold: bool = False) -> PIL.Image.Image:
    """A line of text."""
    line = PIL.Image.new("RGB", (width, _LINE), "white")
    ImageDraw.Draw(line).text((4, 2), text, fill="black", font=font(_TEXT, f"DejaVuSans{'-Bold' * bold}"))
    return line


def _entries(entries: Sequence[Swatch], width: int, columns: int) -> PIL.Image.Image:
    """A legend: a field of colour before each text."""
    picture = PIL.Image.new("RGB", (width, -(-len(entries) // columns) * _LINE), "white")
    pen = ImageDraw.Draw(picture)
    for place, entry in enumerate(entries):
        left, top = place % columns * (width // columns) + 4, place // columns * _LINE + 3
        pen.rectangle((left, top, left + 20, top + 11), fill=entry.colour, outline="black")
        for x in range(left + 5, left + 18, 6) if entry.striped else ():
            pen.line((x, top + 11, x + 4, top), fill="black")
        pen.text((left + 26, top - 2), entry.text, fill="black", font=font(_TEXT))
    return picture


def below(parts: Sequence[PIL.Image.Image]) -> PIL.Image.Image:
    """Pictures below each other."""
    picture = PIL.Image.new("RGB", (max(part.width for part in parts), sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        picture.paste(part, (0, top))
        top += part.height
    return picture


def save(path: Path, picture: PIL.Image.Image, warnings: Sequence[str]) -> None:
    """Write a picture as PNG, flagged."""
    with atomic_path(path) as temporary:
        flagged(picture, warnings).save(temporary, format="png")
