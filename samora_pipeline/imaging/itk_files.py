"""NRRD and MetaImage files through SimpleITK, behind checks of sizes, compressed length, checksum and data file.

SimpleITK returns truncated files without an error, passes over the unit of lengths, and takes 1 for a spacing that is
not stated. Only what the checks need is parsed here; the voxels themselves come from SimpleITK, which counts in LPS.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from samora_pipeline.files import atomic_path, inside
from samora_pipeline.imaging.byte_checks import DamagedError, HeaderError, check_claim, inflate, reading
from samora_pipeline.imaging.volume import Grid, Volume, make_grid

# What ITK says of its own accord quotes names and headers, straight to the terminal; all that matters is checked here.
SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)

NRRD_ENDINGS = (".nrrd", ".nhdr")
META_ENDINGS = (".mha", ".mhd")

_LENGTHS = {"m": 1000.0, "cm": 10.0, "mm": 1.0, "um": 0.001, "µm": 0.001, "micron": 0.001, "nm": 1e-6}
"""units in mm; MetaImage and NRRD name them, SimpleITK does not look"""
_VECTOR = re.compile(r"\(([^)]*)\)")
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_HEADER_LIMIT = 1 << 16
# What zlib calls a gzip stream and one of its own.
_NRRD_WINDOW, _META_WINDOW = 31, 15

# Fields of both formats: "key: value" and "Key = value", but not NRRD's own "key:=value".
_FIELD = re.compile(rb"^([^#:=\n]+?)[ \t]*(?::(?!=)|=)[ \t]*(.*?)\s*$", re.MULTILINE)


def read_itk(path: Path) -> Volume:
    """Read and check an NRRD or MetaImage file.

    Raises:
        DamagedError, HeaderError, RuntimeError: for ``byte_checks.reading``.
        DataError: ``E-PATH-01`` its data file lies elsewhere.
    """
    fields = _check_bytes(path)
    image = SimpleITK.ReadImage(str(path))
    array = SimpleITK.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    array = array.transpose()
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    array = array.reshape(array.shape + (1,) * (3 - array.ndim))
    if array.ndim > 4 or 0 in array.shape:
        raise HeaderError(f"sizes {array.shape}", "three dimensions, or four with channels last")
    return Volume(array, _grid(path, fields, image, array.shape), path)


def read_itk_grid(path: Path) -> Grid:
    """The grid of an NRRD or MetaImage file from its header alone; whether its voxels are there is not checked.

    Raises:
        DataError: ``E-IMG-02`` for a header that cannot be read.
    """
    with reading(path, RuntimeError), path.open("rb") as stream:
        fields, _ = _fields(path, stream.read(_HEADER_LIMIT))
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        return _grid(path, fields, reader, (*reader.GetSize(), 1, 1))


def _grid(path: Path, fields: Mapping[str, str], image: Any, shape: tuple[int, ...]) -> Grid:
    """The grid in mm of what SimpleITK has read; the spacing is known where the header states it."""
    if _is_nrrd(path):
        stated = _numbers(fields.get("spacings", ""))
        stated += map(_length, _VECTOR.findall(fields.get("space directions", "")))
        units = fields.get("space units") or fields.get("units", "")
    else:
        stated = _numbers(fields.get("elementspacing") or fields.get("elementsize", ""))
        units = fields.get("distanceunits", "")
    lengths = [length for length in stated if math.isfinite(length) and length > 0]
    affine = itk_affine(image)
    affine[:3] *= _scale(units)
    return make_grid(shape, affine, len(lengths) >= min(3, image.GetDimension()))


def _scale(units: str) -> float:
    """What one of the units is in mm; without a unit lengths are mm by custom."""
    scales = {_LENGTHS[name] for name in re.findall(r"\w+", units.lower()) if name in _LENGTHS}
    if len(scales) > 1:
        raise HeaderError(f"units {units}", "one unit for all lengths")
    return scales.pop() if scales else 1.0


def _length(vector: str) -> float:
    return math.hypot(*_numbers(vector.replace(",", " ")))


def _numbers(text: str) -> list[float]:
    numbers = []
    for word in text.split():
        try:
            numbers.append(float(word))
        except ValueError:
            numbers.append(math.nan)
    return numbers


def itk_affine(image: Any) -> npt.NDArray[np.float64]:
    """The affine [4, 4], voxel to RAS mm, of what SimpleITK has read (an image, or a reader of one's header)."""
    rank = image.GetDimension()
    used = min(rank, 3)
    direction = np.array(image.GetDirection()).reshape(rank, rank)
    affine = np.eye(4)
    affine[:used, :used] = direction[:used, :used] * np.array(image.GetSpacing()[:used])
    affine[:used, 3] = image.GetOrigin()[:used]
    return _LPS_TO_RAS @ affine


def write_itk(path: Path, array: npt.NDArray[Any], grid: Grid) -> None:
    """Write an array [X, Y, Z] atomically in the format of the path's ending."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose()))
    affine = _LPS_TO_RAS @ grid.matrix
    image.SetSpacing(grid.steps)
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / np.array(grid.steps)).flatten().tolist())
    with atomic_path(path) as temporary:
        SimpleITK.WriteImage(image, str(temporary), useCompression=True)


def _is_nrrd(path: Path) -> bool:
    return path.name.lower().endswith(NRRD_ENDINGS)


def _fields(path: Path, content: bytes) -> tuple[dict[str, str], int]:
    """The fields of the header, and where the header ends."""
    end = re.search(rb"\r?\n\r?\n|\Z" if _is_nrrd(path) else rb"ElementDataFile[^\n]*\n?", content[:_HEADER_LIMIT])
    if end is None:
        raise HeaderError(f"first bytes {content[:8]!r}", "a MetaImage header with ElementDataFile")
    found = _FIELD.findall(content[: end.end()])
    return {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in found}, end.end()


def _check_bytes(path: Path) -> dict[str, str]:
    """The fields of the header, once the data (attached or in a file beside, raw or compressed) are what it claims."""
    content, nrrd = path.read_bytes(), _is_nrrd(path)
    fields, end = _fields(path, content)
    encoding = fields.get("encoding", "") if nrrd else fields.get("compresseddata", "false").lower()
    if encoding not in ("raw", "gzip", "gz", "true", "false"):
        raise HeaderError(f"encoding {encoding!r}", "raw or gzip")
    name = fields.get("data file") or fields.get("datafile") or fields.get("elementdatafile", "LOCAL")
    data = content[end:] if name == "LOCAL" else _read_beside(path, name)
    stated = fields.get("compresseddatasize", "")
    if stated.isdigit() and 0 < int(stated) < len(data):
        data = data[: int(stated)]
    claimed, compressed = _claimed(path), encoding not in ("raw", "false")
    check_claim(claimed, len(data), compressed)
    if compressed:
        inflate(data, claimed, _NRRD_WINDOW if nrrd else _META_WINDOW)
    return fields


def _read_beside(path: Path, name: str) -> bytes:
    if name.upper().startswith("LIST") or "%" in name:
        raise HeaderError(f"a list of data files ({name})", "one data file")
    target = inside(path.parent, name)
    if not target.is_file():
        raise DamagedError(f"no data file {target}")
    return target.read_bytes()


def _claimed(path: Path) -> int:
    """The bytes of the voxels by the header."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        pixel = SimpleITK.Image([1, 1], reader.GetPixelID(), reader.GetNumberOfComponents())
    except RuntimeError as error:
        raise HeaderError(str(error).strip().splitlines()[-1], "a known type of voxel and positive sizes") from error
    voxels: int = math.prod(reader.GetSize())
    if not voxels:
        raise HeaderError(f"sizes {reader.GetSize()}", "positive whole numbers")
    voxel: int = pixel.GetNumberOfComponentsPerPixel() * pixel.GetSizeOfPixelComponent()
    return voxels * voxel
