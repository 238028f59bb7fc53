"""The one renderer of label maps: organs and errors as layers on a scan, with outlines, numbers and titles.

The organs' colours are those of all other pictures; from the eighth organ on they come again with stripes.

Shapes: H, W rows and columns of the source grid; h, w those of the picture.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from PIL import ImageDraw
from scipy.ndimage import binary_erosion, distance_transform_edt

from samora_pipeline.contracts.colours import LINES, ORANGE, ORGAN_COLOURS, PURPLE, SKY_BLUE, organ_style, rgb
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.reporting.html_blocks import Legend, Swatch
from samora_pipeline.reporting.html_images import font
from samora_pipeline.reporting.pictures import Labels, Mask, errors, is_foreground

ERROR_COLOURS = {
    "missed": (SKY_BLUE, "missed"),
    "false": (ORANGE, "predicted, not in the reference"),
    "confused": (PURPLE, "taken for another organ"),
}
Colour = tuple[int, int, int, int]
_FILL, _SOLID = 90, 255
_CLEAR: Colour = (0, 0, 0, 0)
_WHITE: Colour = (255, 255, 255, _SOLID)
_BLACK: Colour = (0, 0, 0, _SOLID)
_STRIPE = 4
_MARGIN = 0.2
_ROOM_FOR_NUMBER = 7
_TITLE, _HEAD, _GAP = 11, 18, 4


@dataclass(frozen=True)
class Frame:
    """The part of a slice that is shown, [top:bottom, left:right], and the size of its picture in pixels."""

    top: int
    bottom: int
    left: int
    right: int
    width: int
    height: int

    def scan(self, image: npt.NDArray[np.float32]) -> PIL.Image.Image:
        """The part of an image [H,W] in [0,1], resized."""
        part = image[self.top : self.bottom, self.left : self.right]
        grey = PIL.Image.fromarray(np.rint(part * 255).astype(np.uint8))
        return grey.resize((self.width, self.height), PIL.Image.Resampling.BICUBIC)

    def labels(self, labels: Labels) -> Labels:
        """The part of label values [H,W], resized by the nearest pixel."""
        part = PIL.Image.fromarray(np.ascontiguousarray(labels[self.top : self.bottom, self.left : self.right]))
        return np.asarray(part.resize((self.width, self.height), PIL.Image.Resampling.NEAREST))


def frame_around(mask: Mask, aspect: float, side: int, least: int = 0) -> Frame:
    """The frame around everything in ``mask`` [H,W] with some margin; its longer side has ``side`` pixels.

    A frame narrower than ``least`` pixels is enlarged, but never to more than twice.
    """
    spans = [_span(np.flatnonzero(mask.any(axis=1 - axis)), mask.shape[axis]) for axis in (0, 1)]
    (top, bottom), (left, right) = spans
    height, width = (bottom - top) * aspect, float(right - left)
    scale = side / max(height, width)
    scale *= min(2.0, max(1.0, least / max(1, round(width * scale))))
    return Frame(top, bottom, left, right, max(1, round(width * scale)), max(1, round(height * scale)))


def _span(used: npt.NDArray[np.intp], size: int) -> tuple[int, int]:
    if not used.size:
        return 0, size
    margin = max(4, round(_MARGIN * (used[-1] - used[0] + 1)))
    return max(0, int(used[0]) - margin), min(size, int(used[-1]) + 1 + margin)


@dataclass(frozen=True)
class Layer:
    """A transparent picture: indices [h,w] into ``colours``, the first of which is clear."""

    indices: npt.NDArray[np.uint8]
    colours: tuple[Colour, ...]

    def on(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """The layer on a picture of its size, in RGB."""
        own = PIL.Image.fromarray(np.array(self.colours, dtype=np.uint8)[self.indices])
        return PIL.Image.alpha_composite(picture.convert("RGBA"), own).convert("RGB")


def organs_layer(frame: Frame, labels: Labels, scheme: LabelScheme, *, numbered: bool = True) -> Layer:
    """Organs of [H,W] as tinted areas with outlines and numbers; ignored pixels are hatched in white."""
    shown = frame.labels(labels)
    # Two entries for each of the few colours: a palette has 256, and there may be as many organs.
    tints = [(*rgb(colour), strength) for colour in ORGAN_COLOURS for strength in (_FILL, _SOLID)]
    colours: tuple[Colour, ...] = (_CLEAR, _WHITE, _BLACK, *tints)
    indices = np.zeros(shown.shape, dtype=np.uint8)
    masks = [np.isin(shown, values) for _, values in scheme.foreground]
    for index, mask in enumerate(masks):
        style = organ_style(index)
        place = 3 + 2 * ORGAN_COLOURS.index(style.colour)
        indices[mask & (indices == 0)] = place
        if style.line != LINES[0]:
            indices[mask & _stripes(mask, 2 * _STRIPE if style.line == LINES[1] else _STRIPE)] = place + 1
        indices[mask & edge(mask)] = place + 1
    if scheme.ignore is not None:
        ignored = shown == scheme.ignore
        indices[ignored & _stripes(ignored, 2 * _STRIPE)] = 1
    picture = PIL.Image.fromarray(indices)
    for number, mask in enumerate(masks, start=1):
        if numbered and not scheme.regions and mask.any():
            _write_number(picture, mask, number)
    return Layer(np.asarray(picture), colours)


def errors_layer(frame: Frame, reference: Labels, prediction: Labels, scheme: LabelScheme) -> Layer:
    """The three kinds of errors of [H,W] in their colours, with the outline of the reference in white."""
    truth, guess = frame.labels(reference), frame.labels(prediction)
    indices = np.zeros(truth.shape, dtype=np.uint8)
    kinds = errors(truth, guess, scheme)
    for place, mask in enumerate(kinds.values(), start=2):
        indices[mask] = place
    foreground = is_foreground(truth, scheme)
    indices[foreground & edge(foreground) & (indices == 0)] = 1
    return Layer(indices, (_CLEAR, _WHITE, *((*rgb(ERROR_COLOURS[name][0]), _SOLID) for name in kinds)))


def edge(mask: Mask) -> Mask:
    """Pixels of the mask that have a neighbour outside it; the frame's border counts as outside."""
    inner: Mask = mask & ~binary_erosion(mask)
    return inner


def _stripes(mask: Mask, period: int) -> Mask:
    striped: Mask = np.indices(mask.shape).sum(axis=0) % period < period // 2
    return striped


def _write_number(picture: PIL.Image.Image, mask: Mask, number: int) -> None:
    """An organ's number in white on black where the organ is thickest, if it has room there."""
    depth: Any = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    if depth.max() < _ROOM_FOR_NUMBER:
        return
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    pen = ImageDraw.Draw(picture)
    # Without smoothing: between two entries of a palette there is no colour.
    pen.fontmode = "1"
    pen.text((int(column), int(row)), str(number), fill=1, font=font(10), anchor="mm", stroke_width=1, stroke_fill=2)


def organ_legend(scheme: LabelScheme) -> Legend:
    """Colours and numbers of the organs."""
    organs = tuple(
        Swatch(
            organ_style(index).colour,
            ("" if scheme.regions else f"{index + 1} ") + name.replace("_", " "),
            striped=organ_style(index).line != LINES[0],
        )
        for index, (name, _) in enumerate(scheme.foreground)
    )
    return Legend("Organs", organs)


def error_legend() -> Legend:
    """Colours of the errors."""
    return Legend("Errors", tuple(Swatch(colour, text) for colour, text in ERROR_COLOURS.values()))


def sheet(tiles: Sequence[tuple[str, PIL.Image.Image]], columns: int) -> PIL.Image.Image:
    """Pictures in rows, each under its title, which is cut off where the picture ends."""
    width, height = (max(tile.size[axis] for _, tile in tiles) for axis in (0, 1))
    rows = -(-len(tiles) // columns)
    picture = PIL.Image.new("RGB", (columns * (width + _GAP), rows * (height + _HEAD)), "white")
    pen = ImageDraw.Draw(picture)
    for place, (title, tile) in enumerate(tiles):
        left, top = place % columns * (width + _GAP), place // columns * (height + _HEAD)
        while title and font(_TITLE).getlength(title) > width:
            title = title[:-1]
        pen.text((left + 2, top + 2), title, fill="black", font=font(_TITLE))
        picture.paste(tile, (left, top + _HEAD))
    return picture
