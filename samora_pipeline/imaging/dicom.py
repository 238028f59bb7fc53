"""Reading of DICOM series through SimpleITK's GDCM, one slice at a time behind checks of its own.

Whether slices are missing, repeated, shifted or of different kinds is read from the positions in the files; that each
file is whole is read from its bytes. Enhanced files with many frames are refused: their geometry is stored elsewhere.

Shape legend: X, Y columns and rows; Z slices along the patient axis, in the order of their positions.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.byte_checks import DamagedError, HeaderError, reading
from samora_pipeline.imaging.itk_files import itk_affine
from samora_pipeline.imaging.volume import Volume, make_grid

DICOM_ENDINGS = (".dcm", ".ima")

_MAGIC = b"DICM"
_MAGIC_OFFSET = 128
# A fiftieth of the slice distance, and the rounding of positions written with two decimals.
_GAP_SHARE = 0.02
_ROUNDING = 0.011

_SERIES, _NUMBER, _MODALITY = "0020|000e", "0020|0011", "0008|0060"
_FRAMES, _PHOTOMETRIC, _POSITION, _ORIENTATION = "0028|0008", "0028|0004", "0020|0032", "0020|0037"

_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_ITEM = b"\xfe\xff\x00\xe0"
_DELIMITER = b"\xfe\xff\xdd\xe0\0\0\0\0"
_UNDEFINED = 0xFFFFFFFF

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One series: its unique id, its number (0 when unstated), the modality (CT, MR, ...) and its files by name."""

    uid: str
    number: int
    modality: str
    paths: tuple[Path, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    with path.open("rb") as stream:
        start = stream.read(_MAGIC_OFFSET + len(_MAGIC))
    return start[_MAGIC_OFFSET:] == _MAGIC


def find_series(paths: Sequence[Path]) -> list[Series]:
    """Group DICOM files by series, in the order of series number and unique id.

    Raises:
        DataError: ``E-IMG-02`` for a file whose header cannot be read.
    """
    grouped: dict[str, list[Any]] = {}
    for path in sorted(paths):
        header = _header(path)
        grouped.setdefault(_tag(header, _SERIES), []).append(header)
    series = [
        Series(uid, int(_tag(first, _NUMBER) or 0), _tag(first, _MODALITY), tuple(map(_path, (first, *others))))
        for uid, (first, *others) in grouped.items()
    ]
    return sorted(series, key=lambda one: (one.number, one.uid))


def read_series(paths: Sequence[Path]) -> Volume:
    """Read the files of one series as a volume [X, Y, Z] in stored units times slope plus intercept.

    Raises:
        DataError: ``E-IMG-02`` a damaged file, ``E-IMG-03`` colour, many frames or no position, ``E-SER-01`` slices
            that are missing or repeated, ``E-SER-02`` slices of different size, spacing or direction, ``E-SER-03``
            slices that are shifted against each other (a tilted gantry).
    """
    headers = [_header(path, check=True) for path in sorted(paths)]
    for other in headers[1:]:
        _require_alike(headers[0], other)
    affine = itk_affine(headers[0])
    normal = affine[:3, 2] / np.linalg.norm(affine[:3, 2])
    positioned = sorted(((itk_affine(header)[:3, 3], header) for header in headers), key=lambda pair: pair[0] @ normal)
    origins, headers = np.array([origin for origin, _ in positioned]), [header for _, header in positioned]
    if len(headers) > 1:
        affine[:3, 2] = normal * _check_positions(headers, origins, normal)
    affine[:3, 3] = origins[0]
    array = np.stack([_plane(header) for header in headers], axis=-1)
    return Volume(array, make_grid(array.shape, affine), _path(headers[0]))


def check_pixel_bytes(content: bytes) -> None:
    """Refuse a file whose pixel data end before their stated length: the decoders fill what is missing silently.

    Only explicit and implicit little endian are parsed (DICOM PS3.5, sections 7.1 and A.4); everything before the
    pixel data is left to the decoder.

    Raises:
        DamagedError: missing bytes; HeaderError: no pixel data.
    """
    found = False
    start = content.find(_PIXEL_DATA)
    while start >= 0:
        head = content[start + 4 : start + 12]
        explicit = head[:2] in (b"OW", b"OB")
        if len(head) == 8 and not (explicit and head[2:4] != b"\0\0"):
            found = True
            length = struct.unpack("<I", head[4:] if explicit else head[:4])[0]
            if _holds(content, start + (12 if explicit else 8), length):
                return
        start = content.find(_PIXEL_DATA, start + 1)
    if found:
        raise DamagedError(f"pixel data that end early, at byte {len(content):,}")
    raise HeaderError("no pixel data in little-endian order", "an image slice")


def _holds(content: bytes, offset: int, length: int) -> bool:
    if length != _UNDEFINED:
        return offset + length <= len(content)
    while content[offset : offset + 4] == _ITEM and offset + 8 <= len(content):
        offset += 8 + struct.unpack("<I", content[offset + 4 : offset + 8])[0]
    return content[offset : offset + 8] == _DELIMITER


def _header(path: Path, check: bool = False) -> Any:
    """A reader of one slice that has read its header; with ``check`` also whether it is a slice that can be used."""
    with reading(path, RuntimeError):
        header = SimpleITK.ImageFileReader()
        header.SetImageIO("GDCMImageIO")
        header.SetFileName(str(path))
        header.ReadImageInformation()
        frames = _tag(header, _FRAMES) if check else ""
        if len(header.GetSize()) != 3 or header.GetSize()[2] != 1 or frames not in ("", "1"):
            found = frames or " x ".join(map(str, header.GetSize()[2:])) or "2-D"
            raise HeaderError(f"{found} frames in one file", "one slice per file (dcm2niix converts enhanced files)")
        if check and _tag(header, _PHOTOMETRIC) != "MONOCHROME2":
            raise HeaderError(f"photometric interpretation {_tag(header, _PHOTOMETRIC)}", "MONOCHROME2")
        if check and not (_tag(header, _POSITION) and _tag(header, _ORIENTATION)):
            raise HeaderError("no image position or orientation", "a slice with its place in the patient")
    return header


def _tag(header: Any, key: str) -> str:
    return header.GetMetaData(key).strip() if header.HasMetaDataKey(key) else ""


def _path(header: Any) -> Path:
    return Path(header.GetFileName())


def _require_alike(first: Any, other: Any) -> None:
    alike = (
        first.GetSize() == other.GetSize()
        and np.allclose(first.GetSpacing()[:2], other.GetSpacing()[:2], rtol=1e-4)
        and np.allclose(first.GetDirection(), other.GetDirection(), atol=1e-3)
    )
    if not alike:
        found, expected = f"{_described(other)} in {_path(other)}", f"{_described(first)} as in {_path(first).name}"
        raise DataError("E-SER-02", path=_path(other), found=found, expected=expected)


def _check_positions(headers: Sequence[Any], origins: Vector, normal: Vector) -> float:
    """Return the distance of the slices in mm; ``origins`` [slice, 3] are their positions in mm."""
    gaps = np.diff(origins @ normal)
    usual = float(np.median(gaps))
    worst = int(np.abs(gaps - usual).argmax())
    if (gaps < _ROUNDING).any():
        worst = int(gaps.argmin())
        fault = f"the same position ({origins[worst] @ normal:.2f} mm)", "one slice per position"
        raise _uneven(headers[worst : worst + 2], *fault)
    if abs(gaps[worst] - usual) > _GAP_SHARE * usual + 2 * _ROUNDING:
        absent = round(gaps[worst] / usual) - 1
        counted = f"; {absent} {'slice is' if absent == 1 else 'slices are'} missing" if absent > 0 else ""
        fault = f"{gaps[worst]:.2f} mm{counted}", f"{usual:.2f} mm as between the other slices"
        raise _uneven(headers[worst : worst + 2], *fault)
    shifts = origins - origins[0] - np.outer((origins - origins[0]) @ normal, normal)
    drift = float(np.linalg.norm(shifts, axis=1).max())
    if drift > 2 * _ROUNDING + 0.5 * min(headers[0].GetSpacing()[:2]):
        first = _path(headers[0])
        found = f"up to {drift:.2f} mm across their normal, from {first.name} (a tilted gantry)"
        raise DataError("E-SER-03", folder=first.parent.name, found=found)
    return float((origins[-1] - origins[0]) @ normal / (len(headers) - 1))


def _uneven(pair: Sequence[Any], found: str, expected: str) -> DataError:
    first, last = map(_path, pair)
    found = f"{found} ({first.parent})"
    return DataError("E-SER-01", first=first.name, last=last.name, found=found, expected=expected)


def _described(header: Any) -> str:
    columns, rows, *_ = header.GetSize()
    spacing = " x ".join(f"{value:.4g}" for value in header.GetSpacing()[:2])
    cosines = ", ".join(f"{value:.3f}" for value in np.array(header.GetDirection()).reshape(3, 3)[:, :2].T.ravel())
    return f"{columns} x {rows} pixels of {spacing} mm, direction ({cosines})"


def _plane(header: Any) -> npt.NDArray[Any]:
    """One slice [X, Y] with slope and intercept applied."""
    with reading(_path(header), RuntimeError):
        check_pixel_bytes(_path(header).read_bytes())
        image = header.Execute()
        if image.GetNumberOfComponentsPerPixel() != 1:
            raise HeaderError("several samples per pixel", "grey values")
    plane: npt.NDArray[Any] = SimpleITK.GetArrayFromImage(image)[0].transpose()
    return plane
