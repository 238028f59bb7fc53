"""Reading of DICOM series through SimpleITK's GDCM, one slice at a time behind checks of its own.

Whether slices are missing, repeated, shifted or of different kinds is read from the positions in the files; that each
file is whole is read from its bytes. Enhanced files with many frames are refused: their geometry is stored elsewhere.

Shape legend: X, Y columns and rows; Z slices along the patient axis, in the order of their positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.byte_checks import bad_header, damaged
from samora_pipeline.imaging.dicom_bytes import check_pixel_bytes
from samora_pipeline.imaging.volume import Volume, make_grid

DICOM_ENDINGS = (".dcm", ".ima")

_MAGIC = b"DICM"
_MAGIC_OFFSET = 128
# A fiftieth of the slice distance, and the rounding of positions written with two decimals.
_GAP_SHARE = 0.02
_ROUNDING = 0.011
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_TAGS = {
    "series": "0020|000e",
    "number": "0020|0011",
    "modality": "0008|0060",
    "frames": "0028|0008",
    "photometric": "0028|0004",
    "position": "0020|0032",
    "orientation": "0020|0037",
}


@dataclass(frozen=True)
class Series:
    """One series: its unique id, its number (0 when unstated), the modality (CT, MR, ...) and its files by name."""

    uid: str
    number: int
    modality: str
    paths: tuple[Path, ...]


@dataclass(frozen=True)
class _Slice:
    path: Path
    size: tuple[int, int]
    spacing: tuple[float, float, float]
    origin: npt.NDArray[np.float64]
    direction: npt.NDArray[np.float64]
    tags: dict[str, str]


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
    grouped: dict[str, list[_Slice]] = {}
    for path in sorted(paths):
        found = _header(path)
        grouped.setdefault(found.tags.get("series", ""), []).append(found)
    series = [
        Series(
            uid,
            int(slices[0].tags.get("number") or 0),
            slices[0].tags.get("modality", ""),
            tuple(item.path for item in slices),
        )
        for uid, slices in grouped.items()
    ]
    return sorted(series, key=lambda one: (one.number, one.uid))


def read_series(paths: Sequence[Path]) -> Volume:
    """Read the files of one series as a volume [X, Y, Z] in stored units times slope plus intercept.

    Raises:
        DataError: ``E-IMG-02`` a damaged file, ``E-IMG-03`` colour, many frames or no position, ``E-SER-01`` slices
            that are missing or repeated, ``E-SER-02`` slices of different size, spacing or direction, ``E-SER-03``
            slices that are shifted against each other (a tilted gantry).
    """
    slices = [_header(path) for path in sorted(paths)]
    for item in slices:
        _check_kind(item)
    first = slices[0]
    for item in slices[1:]:
        _require_alike(first, item)
    normal = first.direction[:, 2]
    slices.sort(key=lambda item: float(item.origin @ normal))
    gap = _check_positions(slices, normal)
    planes = [_plane(item.path) for item in slices]
    array = np.stack(planes, axis=-1)
    affine = np.eye(4)
    affine[:3, :3] = slices[0].direction * np.array([*slices[0].spacing[:2], gap])
    affine[:3, 3] = slices[0].origin
    return Volume(array, make_grid(array.shape, _LPS_TO_RAS @ affine), slices[0].path)


def _header(path: Path) -> _Slice:
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise damaged(path, str(error).strip().splitlines()[-1]) from error
    tags = {name: reader.GetMetaData(key).strip() for name, key in _TAGS.items() if reader.HasMetaDataKey(key)}
    size, rank = reader.GetSize(), reader.GetDimension()
    if rank != 3 or (len(size) == 3 and size[2] != 1):
        raise _many_frames(path, str(size[2]) if len(size) > 2 else "2-D")
    return _Slice(
        path,
        (size[0], size[1]),
        reader.GetSpacing(),
        np.array(reader.GetOrigin()),
        np.array(reader.GetDirection()).reshape(3, 3),
        tags,
    )


def _reader(path: Path) -> Any:
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    return reader


def _check_kind(item: _Slice) -> None:
    if item.tags.get("frames", "1") not in ("", "1"):
        raise _many_frames(item.path, item.tags["frames"])
    if item.tags.get("photometric") != "MONOCHROME2":
        raise bad_header(item.path, f"photometric interpretation {item.tags.get('photometric')}", "MONOCHROME2")
    if not {"position", "orientation"} <= set(item.tags):
        raise bad_header(item.path, "no image position or orientation", "a slice with its place in the patient")


def _many_frames(path: Path, frames: str) -> DataError:
    return bad_header(path, f"{frames} frames in one file", "one slice per file (dcm2niix converts enhanced files)")


def _require_alike(first: _Slice, other: _Slice) -> None:
    alike = (
        first.size == other.size
        and np.allclose(first.spacing[:2], other.spacing[:2], rtol=1e-4)
        and np.allclose(first.direction, other.direction, atol=1e-3)
    )
    if not alike:
        raise DataError(
            "E-SER-02",
            f"{other.path.name} does not fit the other slices of its series",
            found=f"{_described(other)} in {other.path}",
            expected=f"{_described(first)} as in {first.path.name}",
            fix="keep localizers and other series out of the folder",
        )


def _check_positions(slices: Sequence[_Slice], normal: npt.NDArray[np.float64]) -> float:
    """Return the distance of the slices in mm (the stated thickness where there is one slice only)."""
    if len(slices) == 1:
        return slices[0].spacing[2]
    origins = np.array([item.origin for item in slices])
    gaps = np.diff(origins @ normal)
    usual = float(np.median(gaps))
    worst = int(np.abs(gaps - usual).argmax())
    if (gaps < _ROUNDING).any():
        worst = int(gaps.argmin())
        raise _uneven(slices, worst, f"the same position ({origins[worst] @ normal:.2f} mm)", "one slice per position")
    if abs(gaps[worst] - usual) > _GAP_SHARE * usual + 2 * _ROUNDING:
        absent = round(gaps[worst] / usual) - 1
        counted = f"; {absent} {'slice is' if absent == 1 else 'slices are'} missing" if absent > 0 else ""
        raise _uneven(slices, worst, f"{gaps[worst]:.2f} mm{counted}", f"{usual:.2f} mm as between the other slices")
    shifts = origins - origins[0] - np.outer((origins - origins[0]) @ normal, normal)
    drift = float(np.linalg.norm(shifts, axis=1).max())
    if drift > 2 * _ROUNDING + 0.5 * min(slices[0].spacing[:2]):
        raise DataError(
            "E-SER-03",
            f"the slices of {slices[0].path.parent.name} are shifted against each other",
            found=f"up to {drift:.2f} mm across their normal, from {slices[0].path.name} (a tilted gantry)",
            expected="slices stacked at right angles",
            fix="resample the series to a regular grid first, for example with dcm2niix",
        )
    return float((origins[-1] - origins[0]) @ normal / (len(slices) - 1))


def _uneven(slices: Sequence[_Slice], before: int, found: str, expected: str) -> DataError:
    first, second = slices[before].path, slices[before + 1].path
    return DataError(
        "E-SER-01",
        f"slices are missing or repeated between {first.name} and {second.name}",
        found=f"{found} ({first.parent})",
        expected=expected,
        fix="export the whole series again, and only that one",
    )


def _described(item: _Slice) -> str:
    spacing = " x ".join(f"{value:.4g}" for value in item.spacing[:2])
    cosines = ", ".join(f"{value:.3f}" for value in item.direction[:, :2].T.ravel())
    return f"{item.size[0]} x {item.size[1]} pixels of {spacing} mm, direction ({cosines})"


def _plane(path: Path) -> npt.NDArray[Any]:
    """One slice [X, Y] with slope and intercept applied."""
    check_pixel_bytes(path)
    try:
        image = _reader(path).Execute()
    except RuntimeError as error:
        raise damaged(path, str(error).strip().splitlines()[-1]) from error
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise bad_header(path, "several samples per pixel", "grey values")
    plane: npt.NDArray[Any] = SimpleITK.GetArrayFromImage(image)[0].transpose()
    return plane
