"""Single slices for the slider: the scan in grey, and organs or errors as transparent pictures to lay on it.

The organs' colours are those of all other pictures; from the eighth organ on they come again with stripes.

Shapes: H, W rows and columns of the source grid; h, w those of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib.colors import to_rgb
from PIL import ImageDraw, ImageFont
from scipy.ndimage import distance_transform_edt

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.reporting.html_blocks import Legend, Swatch
from samora_pipeline.reporting.html_images import palette_address, stamp_strip, webp_address
from samora_pipeline.reporting.palette import LINES, ORANGE, PURPLE, SKY_BLUE, organ_style
from samora_pipeline.reporting.pictures import Labels, Mask, errors, foreground_values

ERROR_COLOURS = {
    "missed": (SKY_BLUE, "missed"),
    "false": (ORANGE, "predicted, not in the reference"),
    "confused": (PURPLE, "taken for another organ"),
}
_FILL, _SOLID = 90, 255
_STRIPE = 4
_MARGIN = 0.2
_ROOM_FOR_NUMBER = 7
_TITLE = 12
_ONE_LINE = 18
"""pixels of a strip of stamps; more of them cover at most a third of a picture"""

Colour = tuple[int, int, int, int]


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


def frame_around(mask: Mask, aspect: float, side: int) -> Frame:
    """The frame around everything in ``mask`` [H,W] with some margin; its longer side has ``side`` pixels."""
    spans = [_span(np.flatnonzero(mask.any(axis=1 - axis)), mask.shape[axis]) for axis in (0, 1)]
    (top, bottom), (left, right) = spans
    height, width = (bottom - top) * aspect, float(right - left)
    scale = side / max(height, width)
    return Frame(top, bottom, left, right, max(1, round(width * scale)), max(1, round(height * scale)))


def wide_frame(mask: Mask, aspect: float, side: int, least: int) -> Frame:
    """The frame around ``mask``, enlarged where it is narrower than ``least`` pixels, but never to more than twice."""
    frame = frame_around(mask, aspect, side)
    return frame if frame.width >= least else frame_around(mask, aspect, min(2 * side, side * least // frame.width))


def write_title(picture: PIL.Image.Image, place: tuple[int, int], text: str, width: int) -> None:
    """A title in black at ``place`` (x, y), cut off where ``width`` pixels end."""
    # The built-in font knows Latin letters only.
    text, font = text.encode("ascii", "replace").decode("ascii"), ImageFont.load_default(_TITLE)
    while text and font.getlength(text) > width:
        text = text[:-1]
    ImageDraw.Draw(picture).text(place, text, fill="black", font=font)


def _span(used: npt.NDArray[np.intp], size: int) -> tuple[int, int]:
    if not used.size:
        return 0, size
    margin = max(4, round(_MARGIN * (used[-1] - used[0] + 1)))
    return max(0, int(used[0]) - margin), min(size, int(used[-1]) + 1 + margin)


def scan_address(frame: Frame, image: npt.NDArray[np.float32], stamps: tuple[str, ...], quality: int) -> str:
    """The scan as WebP, stamped inside its upper edge so that overlays keep their place."""
    picture = frame.scan(image)
    if stamps:
        strip = stamp_strip(stamps, frame.width)
        picture = picture.convert("RGB")
        picture.paste(strip.crop((0, 0, frame.width, min(strip.height, max(_ONE_LINE, frame.height // 3)))), (0, 0))
    return webp_address(picture, quality)


def organs_address(frame: Frame, labels: Labels, scheme: LabelScheme) -> str:
    """Organs of [H,W] as tinted areas with outlines and numbers."""
    shown = frame.labels(labels)
    colours: list[Colour] = [(0, 0, 0, 0), (255, 255, 255, _SOLID), (0, 0, 0, _SOLID)]
    indices = np.zeros(shown.shape, dtype=np.uint8)
    numbers = []
    for index, (_, values) in enumerate(scheme.foreground):
        mask = np.isin(shown, values)
        place = len(colours)
        colour = rgb(organ_style(index).colour)
        colours += [(*colour, _FILL), (*colour, _SOLID)]
        if mask.any():
            indices[mask & (indices == 0)] = place
            _stripe(indices, mask, organ_style(index).line, place + 1)
            indices[mask & edge(mask)] = place + 1
            numbers.append((mask, index + 1))
    picture = PIL.Image.frombytes("P", (frame.width, frame.height), indices.tobytes())
    if not scheme.regions:
        for mask, number in numbers:
            _write_number(picture, mask, number)
    return palette_address(np.asarray(picture), colours)


def errors_address(frame: Frame, reference: Labels, prediction: Labels, scheme: LabelScheme) -> str:
    """The three kinds of errors of [H,W] in their colours, with the outline of the reference in white."""
    truth, guess = frame.labels(reference), frame.labels(prediction)
    colours: list[Colour] = [(0, 0, 0, 0), (255, 255, 255, _SOLID)]
    indices = np.zeros(truth.shape, dtype=np.uint8)
    for name, mask in errors(truth, guess, scheme).items():
        indices[mask] = len(colours)
        colours.append((*rgb(ERROR_COLOURS[name][0]), _SOLID))
    foreground = np.isin(truth, foreground_values(scheme))
    indices[foreground & edge(foreground) & (indices == 0)] = 1
    return palette_address(indices, colours)


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


def edge(mask: Mask) -> Mask:
    """Pixels of the mask that have a neighbour outside it; the frame's border counts as outside."""
    wide = np.pad(mask, 1)
    return mask & ~(wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:])


def _stripe(indices: Labels, mask: Mask, line: str, place: int) -> None:
    if line == LINES[0]:
        return
    rows, columns = np.indices(mask.shape)
    period = 2 * _STRIPE if line == LINES[1] else _STRIPE
    indices[mask & ((rows + columns) % period < period // 2)] = place


def _write_number(picture: PIL.Image.Image, mask: Mask, number: int) -> None:
    """An organ's number in white on black where the organ is thickest, if it has room there."""
    rows, columns = (np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    depth: Any = distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    if depth.max() < _ROOM_FOR_NUMBER:
        return
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    pen = ImageDraw.Draw(picture)
    # Without smoothing: between two entries of a palette there is no colour.
    pen.fontmode = "1"
    place = (int(column + columns[0]), int(row + rows[0]))
    pen.text(place, str(number), fill=1, font=ImageFont.load_default(), anchor="mm", stroke_width=1, stroke_fill=2)


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of a colour, 0 to 255."""
    red, green, blue = (round(part * 255) for part in to_rgb(colour))
    return red, green, blue


def tinted(picture: PIL.Image.Image, labels: Labels, scheme: LabelScheme) -> PIL.Image.Image:
    """An RGB picture with the organs of label values of its size as tinted areas and outlines."""
    pixels = np.asarray(picture, dtype=np.float32).copy()
    for index, (_, values) in enumerate(scheme.foreground):
        mask = np.isin(labels, values)
        colour = np.array(rgb(organ_style(index).colour), dtype=np.float32)
        pixels[mask] += (colour - pixels[mask]) * (_FILL / _SOLID)
        pixels[mask & edge(mask)] = colour
    return PIL.Image.fromarray(np.rint(pixels).astype(np.uint8))
