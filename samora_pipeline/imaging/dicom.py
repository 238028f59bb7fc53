"""Reading of DICOM series through SimpleITK's GDCM, one slice at a time behind checks of its own.

Whether slices are missing, repeated, shifted or of different kinds is read from the positions in the files; that each
file is whole is read from its bytes (``dicom_bytes``). Enhanced files with many frames are refused: their geometry is
stored elsewhere. Spacing is what the tags state: GDCM takes 1 mm where they say nothing.

Shape legend: X, Y columns and rows; Z slices along the patient axis, in the order of their positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.byte_checks import DamagedError, HeaderError, reading
from samora_pipeline.imaging.dicom_bytes import FIRST_BYTES, begins_as_dicom, check_pixel_bytes, is_without_pixels
from samora_pipeline.imaging.itk_files import itk_affine
from samora_pipeline.imaging.volume import Volume, make_grid

DICOM_ENDINGS = (".dcm", ".ima")

_DIRECTORY = "DICOMDIR"
# A fiftieth of the slice distance, and the rounding of positions written with two decimals.
_GAP_SHARE = 0.02
_ROUNDING = 0.011

_SERIES, _NUMBER, _MODALITY, _SYNTAX = "0020|000e", "0020|0011", "0008|0060", "0002|0010"
_FRAMES, _PHOTOMETRIC, _POSITION, _ORIENTATION = "0028|0008", "0028|0004", "0020|0032", "0020|0037"
# Of the patient, else of the detector; both are (between rows, between columns).
_IN_PLANE = ("0028|0030", "0018|1164")
_THICKNESS = ("0018|0088", "0018|0050")
# How far a direction may be from length 1, and two of them from a right angle: rounding of headers.
_DIRECTION_TOLERANCE = 0.01

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Series:
    """One series: its unique id, its number (0 when unstated), the modality (CT, MR, ...) and its files by name."""

    uid: str
    number: int
    modality: str
    paths: tuple[Path, ...]


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its first bytes or by its name; the directory file of a medium is none.

    A file that is called DICOM counts whatever is in it: it must fail by name, not vanish from its series.
    """
    if path.name.upper() == _DIRECTORY:
        return False
    if path.name.lower().endswith(DICOM_ENDINGS):
        return True
    try:
        with path.open("rb") as stream:
            return begins_as_dicom(stream.read(FIRST_BYTES))
    except OSError:
        # Files of a series often have no ending or a number; such a one may not be left out unread.
        return not path.suffix or path.suffix[1:].isdigit()


def find_series(paths: Sequence[Path]) -> list[Series]:
    """Group DICOM files by series, in the order of series number and unique id.

    Objects without pixels (reports, contours, presentation states), which archives export beside the scans, are left
    out. A file of many frames is a series like any other, which ``read_series`` refuses.

    Raises:
        DataError: ``E-IMG-02`` for a file whose header cannot be read: it may belong to any of the series.
    """
    grouped: dict[str, list[Any]] = {}
    for path in sorted(paths):
        try:
            header = _header(path)
        except DataError:
            if path.is_file() and is_without_pixels(path):
                continue
            raise
        grouped.setdefault(_tag(header, _SERIES), []).append(header)
    series = [
        Series(uid, _number(first), _tag(first, _MODALITY), tuple(map(_path, (first, *others))))
        for uid, (first, *others) in grouped.items()
    ]
    return sorted(series, key=lambda one: (one.number, one.uid))


def read_series(paths: Sequence[Path]) -> Volume:
    """Read the files of one series as a volume [X, Y, Z] in stored units times slope plus intercept.

    Raises:
        DataError: ``E-IMG-02`` a damaged file, ``E-IMG-03`` colour, many frames or no place in the patient,
            ``E-SER-01`` slices that are missing or repeated, ``E-SER-02`` slices of different size, spacing or
            direction, ``E-SER-03`` slices that are shifted against each other (a tilted gantry).
    """
    headers = [_header(path, check=True) for path in sorted(paths)]
    for other in headers[1:]:
        _require_alike(headers[0], other)
    affine = itk_affine(headers[0])
    affine[:3, :3] /= np.linalg.norm(affine[:3, :3], axis=0)
    normal = affine[:3, 2].copy()
    positioned = sorted(((itk_affine(header)[:3, 3], header) for header in headers), key=lambda pair: pair[0] @ normal)
    origins, headers = np.array([origin for origin, _ in positioned]), [header for _, header in positioned]
    in_plane, gap = _in_plane(headers[0]), _thickness(headers[0])
    if len(headers) > 1:
        gap = _check_positions(headers, origins, normal)
    affine[:3, :3] *= (*(in_plane or (1.0, 1.0)), gap or 1.0)
    affine[:3, 3] = origins[0]
    array = np.stack([_plane(header) for header in headers], axis=-1)
    known = in_plane is not None and gap is not None
    return Volume(array, make_grid(array.shape, affine, known), _path(headers[0]))


def _header(path: Path, check: bool = False) -> Any:
    """A reader of one slice that has read its header; with ``check`` also whether it is a slice that can be used."""
    with reading(path, RuntimeError):
        header = SimpleITK.ImageFileReader()
        header.SetImageIO("GDCMImageIO")
        header.SetFileName(str(path))
        header.ReadImageInformation()
        if check:
            _require_slice(header)
    return header


def _require_slice(header: Any) -> None:
    frames = _tag(header, _FRAMES)
    if len(header.GetSize()) != 3 or header.GetSize()[2] != 1 or frames not in ("", "1"):
        found = frames or " x ".join(map(str, header.GetSize()[2:])) or "2-D"
        raise HeaderError(f"{found} frames in one file", "one slice per file (dcm2niix converts enhanced files)")
    if _tag(header, _PHOTOMETRIC) != "MONOCHROME2":
        raise HeaderError(f"photometric interpretation {_tag(header, _PHOTOMETRIC)}", "MONOCHROME2")
    position, cosines = _numbers(header, _POSITION), _numbers(header, _ORIENTATION)
    if len(position) != 3 or len(cosines) != 6:
        raise HeaderError("no image position or orientation", "a slice with its place in the patient")
    row, column = np.array(cosines).reshape(2, 3)
    products = np.array([row @ row, column @ column, row @ column])
    if not (np.abs(products - (1, 1, 0)) <= _DIRECTION_TOLERANCE).all():
        raise HeaderError(f"the image orientation {_tag(header, _ORIENTATION)}", "two directions at right angles")


def _in_plane(header: Any) -> tuple[float, float] | None:
    """The distances (x, y) of pixel centres in mm; None where nothing states them."""
    for key in _IN_PLANE:
        if len(stated := _numbers(header, key)) == 2 and min(stated) > 0:
            return stated[1], stated[0]
    return None


def _thickness(header: Any) -> float | None:
    """The distance of slices in mm, or their thickness, as the header of a single one states it."""
    return next((stated[0] for key in _THICKNESS if len(stated := _numbers(header, key)) == 1 and stated[0] > 0), None)


def _number(header: Any) -> int:
    """The number of the series, which only names things: 0 where it is unstated or no number."""
    stated = _numbers(header, _NUMBER)
    return int(stated[0]) if len(stated) == 1 else 0


def _numbers(header: Any, key: str) -> list[float]:
    """The finite numbers of a tag; none where one of its values is something else."""
    try:
        numbers = [float(text) for text in _tag(header, key).split("\\")]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []


def _tag(header: Any, key: str) -> str:
    return header.GetMetaData(key).strip() if header.HasMetaDataKey(key) else ""


def _path(header: Any) -> Path:
    return Path(header.GetFileName())


def _require_alike(first: Any, other: Any) -> None:
    alike = (
        first.GetSize() == other.GetSize()
        and np.allclose(_in_plane(first) or (0, 0), _in_plane(other) or (0, 0), rtol=1e-4)
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
    if drift > 2 * _ROUNDING + 0.5 * min(_in_plane(headers[0]) or (0.0,)):
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
    spacing = " x ".join(f"{value:.4g}" for value in _in_plane(header) or ()) or "unknown"
    cosines = ", ".join(f"{value:.3f}" for value in np.array(header.GetDirection()).reshape(3, 3)[:, :2].T.ravel())
    return f"{columns} x {rows} pixels of {spacing} mm, direction ({cosines})"


def _plane(header: Any) -> npt.NDArray[Any]:
    """One slice [X, Y] with slope and intercept applied."""
    with reading(_path(header), RuntimeError):
        check_pixel_bytes(_path(header).read_bytes())
        try:
            image = header.Execute()
        except RuntimeError as error:
            cause = str(error).strip().splitlines()[-1]
            raise DamagedError(f"{cause}; transfer syntax {_tag(header, _SYNTAX) or 'unstated'}") from error
        if image.GetNumberOfComponentsPerPixel() != 1:
            raise HeaderError("several samples per pixel", "grey values")
    plane: npt.NDArray[Any] = SimpleITK.GetArrayFromImage(image)[0].transpose()
    return plane
