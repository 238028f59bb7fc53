"""Pictures as ``data:`` addresses: matplotlib figures, arrays, and label maps with a palette.

Warning flags (such as PHANTOM) are burned into every picture, because a picture may be copied without its page.
"""

import base64
import io
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
import PIL.Image
from matplotlib.figure import Figure
from PIL import ImageDraw, ImageFont

from samora_pipeline.contracts.colours import VERMILLION
from samora_pipeline.errors import DataError
from samora_pipeline.reporting.html_blocks import Image

_CSS_PIXELS = 96
_STRIP, _FURTHER_LINE, _EDGE = 18, 13, 4
_RULES: Any = {
    "text.parse_math": False,  # a name may hold a dollar sign
    "svg.fonttype": "path",  # looks alike everywhere, with whatever fonts
    "svg.hashsalt": "samora",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10,
}


@contextmanager
def drawing() -> Iterator[None]:
    """The rules that figures of a report are made and encoded under; equal input gives equal bytes."""
    with matplotlib.rc_context(_RULES):
        yield


def svg_image(figure: Figure, warnings: Sequence[str]) -> Image:
    """Encode a figure as SVG, flagged in its upper right corner; call it inside ``drawing``."""
    if warnings:
        box = {"facecolor": VERMILLION, "edgecolor": "none", "pad": 2.5}
        figure.text(
            0.995, 0.99, " | ".join(warnings), fontsize=8, weight="bold", color="white", ha="right", va="top", bbox=box
        )
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    width, height = figure.get_size_inches() * _CSS_PIXELS
    return Image(_address("svg+xml", stream.getvalue()), round(width), round(height))


def webp_image(picture: PIL.Image.Image, warnings: Sequence[str], quality: int = 60) -> Image:
    """Encode a picture, flagged on a strip above it."""
    picture = flagged(picture, warnings)
    return Image(webp_address(picture, quality), *picture.size)


def webp_address(picture: PIL.Image.Image, quality: int) -> str:
    """The picture as lossy WebP."""
    stream = io.BytesIO()
    picture.save(stream, format="WEBP", quality=quality, method=4)
    return _address("webp", stream.getvalue())


def palette_address(indices: npt.NDArray[np.uint8], colours: Sequence[tuple[int, int, int, int]]) -> str:
    """Indices [H,W] into ``colours`` (red, green, blue, opacity; 0..255 each) as a PNG with a palette."""
    picture = PIL.Image.frombytes("P", (indices.shape[1], indices.shape[0]), indices.tobytes())
    picture.putpalette([part for colour in colours for part in colour[:3]])
    stream = io.BytesIO()
    bits = next(bits for bits in (1, 2, 4, 8) if len(colours) <= 1 << bits)
    picture.save(stream, format="PNG", optimize=True, bits=bits, transparency=bytes(colour[3] for colour in colours))
    return _address("png", stream.getvalue())


def shrunk_image(path: Path, width: int, warnings: Sequence[str], quality: int = 55) -> Image:
    """A picture that was written earlier, at most ``width`` pixels wide and flagged.

    Raises:
        DataError: ``E-REPORT-04`` it cannot be read.
    """
    try:
        with PIL.Image.open(path) as original:
            picture = original.convert("RGB")
    except (OSError, PIL.Image.DecompressionBombError) as error:
        raise DataError("E-REPORT-04", path=path, found=f"{path}: {error}") from error
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), PIL.Image.Resampling.LANCZOS)
    return webp_image(picture, warnings, quality)


def flagged(picture: PIL.Image.Image, warnings: Sequence[str]) -> PIL.Image.Image:
    """A copy in RGB with the warnings on a strip above the picture; the picture itself where there are none."""
    if not warnings:
        return picture
    strip = flag_strip(warnings, picture.width)
    result = PIL.Image.new("RGB", (picture.width, picture.height + strip.height))
    result.paste(strip, (0, 0))
    result.paste(picture.convert("RGB"), (0, strip.height))
    return result


def flag_strip(warnings: Sequence[str], width: int) -> PIL.Image.Image:
    """All warnings on a strip of so many pixels, in as many lines as they need."""
    lettering = font(10, "DejaVuSansMono")
    lines = textwrap.wrap(" | ".join(warnings), max(1, int((width - 2 * _EDGE) / lettering.getlength(" "))))
    strip = PIL.Image.new("RGB", (width, _STRIP + _FURTHER_LINE * (len(lines) - 1)), VERMILLION)
    ImageDraw.Draw(strip).text((_EDGE, 3), "\n".join(lines), fill="white", font=lettering, spacing=2)
    return strip


@cache
def font(size: int, name: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    """A font that comes with matplotlib; it has more than Latin letters."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{name}.ttf")), size)


def _address(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
