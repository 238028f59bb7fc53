"""Files of scans that the converters read and write beyond the library's own: pictures in, image volumes out.

Shape legend: X, Y, Z raw axes in file order; C channels.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from PIL import Image

from samora_pipeline.errors import DataError
from samora_pipeline.files import write_bytes
from samora_pipeline.imaging.byte_checks import damaged
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import Grid, Volume, make_grid

PICTURE_ENDINGS = (".png",)

_GZIP_LEVEL = 3
# Types that NIfTI has no everyday code for, and what holds their values.
_STORED = {"f2": "f4", "f8": "f4", "i8": "i4", "u8": "u4"}
# Columns run to the patient's left and rows to the back, as pictures of slices are drawn.
_PICTURE_AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_scan(path: Path, label: bool = False) -> Volume:
    """Read a picture or any volume that the library reads; see ``read_picture`` and ``imaging.files.read_volume``."""
    return read_picture(path, label) if path.name.lower().endswith(PICTURE_ENDINGS) else read_volume(path)


def split_channels(volume: Volume) -> tuple[Volume, ...]:
    """Split [X, Y, Z, C] into C volumes [X, Y, Z] on the same grid; a volume without a channel axis stays one."""
    if volume.array.ndim == 3:
        return (volume,)
    return tuple(Volume(part, volume.grid, volume.path) for part in np.moveaxis(volume.array, -1, 0))


def is_plain_nifti(volume: Volume) -> bool:
    """Whether the file the volume was read from is a compressed NIfTI of exactly three dimensions, fit to be kept."""
    stored = volume.header is not None and volume.path.name.endswith(".nii.gz")
    return bool(stored and len(volume.header.get_data_shape()) == 3)


def write_scan(path: Path, array: npt.NDArray[Any], grid: Grid) -> None:
    """Write an image [X, Y, Z] as NIfTI, atomically, in its own type where NIfTI has it. Equal arrays, equal bytes.

    Raises:
        ValueError: when 64-bit whole numbers do not fit into 32 bits.
    """
    kind = np.dtype(_STORED.get(array.dtype.str[1:], array.dtype.str)).newbyteorder("=")
    stored = array.astype(kind)
    if kind.kind in "iu" and not np.array_equal(stored, array):
        raise ValueError(f"values of {path.name} do not fit into {kind}")
    image = nibabel.Nifti1Image(stored, grid.matrix)
    image.set_sform(grid.matrix, 1)
    image.set_qform(grid.matrix, 1)
    image.header.set_xyzt_units("mm")
    content = image.to_bytes()
    write_bytes(path, gzip.compress(content, _GZIP_LEVEL, mtime=0) if path.name.endswith(".gz") else content)


def read_picture(path: Path, label: bool = False) -> Volume:
    """Read a PNG as a volume of one slice, [X, Y, 1] or, in colour, [X, Y, 1, 3]; 1 mm stands for the unknown spacing.

    A label picture is always [X, Y, 1]: the indices of a palette, or the grey value of a colour picture without colour.

    Raises:
        DataError: ``E-IMG-01`` missing, ``E-IMG-02`` damaged, ``E-IMG-03`` see-through or coloured labels.
    """
    if not path.is_file():
        raise DataError("E-IMG-01", f"there is no image {path.name}", found=f"no file {path}", expected="a PNG file")
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.load()
            plain = picture if label and picture.mode == "P" else _without_palette(picture)
            array = np.asarray(plain)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise damaged(path, str(error)) from error
    array = _opaque(path, array.astype(np.uint8) if array.dtype == np.bool_ else array)
    if label and array.ndim == 3:
        array = _grey(path, array)
    array = np.swapaxes(array, 0, 1)[:, :, None]
    return Volume(array, make_grid(array.shape, _PICTURE_AFFINE), path)


def _without_palette(picture: Image.Image) -> Image.Image:
    return picture.convert("RGBA" if "transparency" in picture.info else "RGB") if picture.mode == "P" else picture


def _opaque(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Drop an alpha channel [H, W, 2 or 4] that hides nothing."""
    if array.ndim == 2 or array.shape[-1] == 3:
        return array
    if (array[..., -1] < 255).any():
        raise _unusable(path, "pixels that are see-through", "an opaque picture, grey or RGB")
    return array[..., 0] if array.shape[-1] == 2 else array[..., :3]


def _grey(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if (array != array[..., :1]).any():
        raise _unusable(path, "coloured pixels", "label values as grey values or palette indices")
    return array[..., 0]


def _unusable(path: Path, found: str, expected: str) -> DataError:
    return DataError(
        "E-IMG-03",
        f"{path.name} cannot be used",
        found=f"{found} in {path}",
        expected=expected,
        fix="save it again in that form",
    )
