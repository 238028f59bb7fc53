"""Pictures (PNG, TIFF, JPEG) as volumes, label maps as PNG: a picture is a slice, several are a stack; only here is
Pillow.

A picture states no position in the patient and no spacing: columns run to the patient's left and rows to the back, as
slices are drawn. Of a TIFF, a file CASE.json beside it may state the spacing, as nnU-Net keeps it: ``spacing`` in mm
between slices, rows and columns. PNG carries checksums; TIFF and JPEG have none, so there only missing bytes are found.

Shape legend: X, Y columns and rows of a picture; S slices; C channels.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageSequence

from samora_pipeline.contracts.dataset import CHANNEL_NAME
from samora_pipeline.contracts.json_io import parse, read_object
from samora_pipeline.errors import DataError
from samora_pipeline.files import write_bytes
from samora_pipeline.imaging.byte_checks import HeaderError, check_claim, reading
from samora_pipeline.imaging.volume import Volume, make_grid

STACK_ENDINGS = (".tif", ".tiff")
"""pictures that may hold several slices, and whose spacing may be stated beside them"""
_LOSSY = (".jpg", ".jpeg")
PICTURE_ENDINGS = (".png", *STACK_ENDINGS, *_LOSSY)

_AXES = np.array([-1.0, -1.0, 1.0])
_SHOWN = 10

Pixels = npt.NDArray[Any]


def is_picture(path: Path) -> bool:
    """Whether the name ends like that of a picture."""
    return path.name.lower().endswith(PICTURE_ENDINGS)


def read_picture(path: Path, label: bool = False) -> Volume:
    """Read a picture as [X, Y, S] or, in colour, [X, Y, S, 3]; S is 1, or the number of pages of a TIFF.

    A label picture never has a channel axis: the indices of a palette, or the grey value of a colour picture without
    colour.

    Raises:
        DataError: ``E-IMG-01`` missing, ``E-IMG-02`` damaged, ``E-IMG-03`` see-through pixels, coloured labels, labels
            in a lossy format, pages of different sizes or a kind of pixel that is not read; ``E-JSON-..`` a damaged
            file with the spacing.
    """
    return _volume(path, _pages(path, label))


def read_channels(paths: Sequence[Path], count: int) -> tuple[Volume, ...]:
    """Read pictures as ``count`` channels: one picture each, or one in colour for all three.

    Raises:
        DataError: ``E-CHAN-08`` another number of channels than that, and what ``read_picture`` raises.
    """
    volumes = [read_picture(path) for path in paths]
    channels = [replace(one, array=part) for one in volumes for part in _split(one.array, single=count == 1)]
    if len(channels) != count:
        found = f"{len(channels)} in {', '.join(path.name for path in paths)}"
        raise DataError("E-CHAN-08", number=count, found=found)
    return tuple(channels)


def write_label_picture(path: Path, labels: npt.NDArray[np.uint8]) -> None:
    """Write a label map [X, Y, 1] atomically as a grey PNG, label values as grey values."""
    content = io.BytesIO()
    Image.fromarray(labels[:, :, 0].T).save(content, "PNG")
    write_bytes(path, content.getvalue())


def _split(array: Pixels, *, single: bool) -> list[Pixels]:
    """The channels of a picture; one in colour that shows only grey is one channel where one is wanted."""
    if array.ndim == 3:
        return [array]
    if single and (array == array[..., :1]).all():
        return [array[..., 0]]
    return [array[..., channel] for channel in range(array.shape[-1])]


def read_slices(paths: Sequence[Path]) -> Volume:
    """Read pictures of one page each as the slices of a volume, in the order of the last number in their names.

    Raises:
        DataError: ``E-SER-01`` numbers that are missing or occur twice, ``E-SER-02`` pictures that differ in size or
            type, and what ``read_picture`` raises.
    """
    ordered = order_slices(paths)
    first = ordered[0]
    slices = [_pages(path, label=False)[0] for path in ordered]
    for path, pixels in zip(ordered, slices, strict=True):
        if (pixels.shape, pixels.dtype) != (slices[0].shape, slices[0].dtype):
            expected = f"{_kind(slices[0])} as in {first.name}"
            raise DataError("E-SER-02", path=path, found=f"{_kind(pixels)} in {path}", expected=expected)
    return _volume(first, slices)


def series_of(path: Path) -> tuple[str, int | None]:
    """What stands before the last number in a picture's name, and that number (None: there is none)."""
    numbers = list(re.finditer(r"[0-9]+", path.stem))
    return (path.stem[: numbers[-1].start()], int(numbers[-1][0])) if numbers else (path.stem, None)


def order_slices(paths: Sequence[Path]) -> list[Path]:
    """Sort the pictures of a series by number and make sure that none is missing.

    Raises:
        DataError: ``E-SER-01`` naming the missing or repeated numbers.
    """
    numbered = sorted(((series_of(path)[1], path) for path in paths), key=lambda pair: (pair[0] or 0, pair[1].name))
    numbers = [number for number, _ in numbered if number is not None]
    missing = sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers)) if numbers else []
    repeated = sorted({number for number in numbers if numbers.count(number) > 1})
    if missing or repeated or (len(numbers) < len(numbered) > 1):
        first, last = numbered[0][1].name, numbered[-1][1].name
        fault = f"no picture {_listed(missing)}" if missing else f"twice the number {_listed(repeated)}"
        found = f"{fault}; {len(numbered)} pictures in {numbered[0][1].parent}"
        raise DataError("E-SER-01", first=first, last=last, found=found, expected="running numbers, one picture each")
    return [path for _, path in numbered]


def _volume(path: Path, slices: Sequence[Pixels]) -> Volume:
    # [S, rows, columns, ...] to [X, Y, S, ...]
    array = np.moveaxis(np.stack(slices), 0, 2).swapaxes(0, 1)
    spacing = _stated_spacing(path) if path.name.lower().endswith(STACK_ENDINGS) else None
    affine = np.diag([*(_AXES * (spacing or (1.0, 1.0, 1.0))), 1.0])
    return Volume(array, make_grid(array.shape, affine, spacing is not None), path)


def _stated_spacing(path: Path) -> tuple[float, float, float] | None:
    """The spacing (x, y, z) that nnU-Net keeps in CASE.json, of an image CASE_0000.tif and of a label map CASE.tif."""
    match = CHANNEL_NAME.match(path.stem)
    for name in dict.fromkeys((path.stem, match["case"] if match else path.stem)):
        if (beside := path.with_name(f"{name}.json")).is_file():
            stated = read_object(beside)
            plain = stated.get("spacing") if isinstance(stated, dict) else None
            z, y, x = parse(tuple[float, float, float], plain, f"{beside}.spacing")
            if min(x, y, z) <= 0:
                raise DataError("E-JSON-03", where=f"{beside}.spacing", found=str(plain), expected="lengths in mm")
            return (x, y, z)
    return None


def _pages(path: Path, label: bool) -> list[Pixels]:
    """All pages as arrays [rows, columns] or [rows, columns, 3]."""
    with (
        # There is hardly an error that Pillow does not raise on damaged files.
        reading(path, Exception),
        Image.open(path, formats=("PNG", "TIFF", "JPEG")) as picture,
    ):
        if label and path.name.lower().endswith(_LOSSY):
            raise HeaderError("labels in JPEG, which changes values", "PNG or TIFF")
        check_claim(picture.width * picture.height * getattr(picture, "n_frames", 1))
        pages = [_pixels(page, label) for page in ImageSequence.Iterator(picture)]
        if len({page.shape for page in pages}) > 1:
            raise HeaderError("pages of different sizes", "pages of one size and kind")
    return pages


def _pixels(page: Image.Image, label: bool) -> Pixels:
    page.load()
    if page.mode == "P" and not label:
        page = page.convert("RGBA" if "transparency" in page.info else "RGB")
    array = np.asarray(page)
    if array.dtype.kind not in "biuf":
        raise HeaderError(f"pixels of type {array.dtype}", "whole or real numbers")
    array = array.astype(np.uint8) if array.dtype == np.bool_ else array
    if array.ndim == 3 and array.shape[-1] in (2, 4):
        if (array[..., -1] < 255).any():
            raise HeaderError("pixels that are see-through", "an opaque picture, grey or RGB")
        array = array[..., 0] if array.shape[-1] == 2 else array[..., :3]
    if label and array.ndim == 3:
        if (array != array[..., :1]).any():
            raise HeaderError("coloured pixels", "label values as grey values or palette indices")
        array = array[..., 0]
    return array


def _kind(pixels: Pixels) -> str:
    rows, columns = pixels.shape[:2]
    return f"{columns} x {rows} pixels of {pixels.dtype}{' in colour' if pixels.ndim == 3 else ''}"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
