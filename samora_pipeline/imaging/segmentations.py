"""Segmentations of 3D Slicer (``.seg.nrrd``): named segments in one or several layers, written and read.

The header is written here and not by SimpleITK, which reports no error on a full disk; the voxels are one binary label
map with all segments in one layer. Keys as 3D Slicer's documentation of the format lists them. What is read may have
several layers, so that segments overlap, and be smaller than its scan: 3D Slicer can leave out the margin without
segments. Extents of segments in the header are hints for display, and the voxels decide.
"""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.ndimage import find_objects

from samora_pipeline.contracts.anatomy_codes import anatomy_code
from samora_pipeline.contracts.label_table import LabelTable
from samora_pipeline.errors import DataError
from samora_pipeline.files import write_bytes
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import GRID_TOLERANCE, Grid, Volume, make_grid, on_grid_of, reoriented

_TERMINOLOGY = "Segmentation category and type - 3D Slicer General Anatomy list"
_ANATOMY = "Anatomic codes - DICOM master list"
_PAIR = re.compile(rb"^([^#\n]+?):=(.*?)\r?$", re.MULTILINE)
_SEGMENT = re.compile(r"Segment(\d+)_(\w+)")
_HEADER_LIMIT = 1 << 20
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True)
class Segment:
    """A segment of a file: its id and name, and the value that its voxels have in one of the layers."""

    identity: str
    name: str
    layer: int
    value: int


@dataclass(frozen=True)
class Segmentation:
    """``layers`` [X, Y, Z, L] of whole numbers, and the segments that are drawn in them."""

    layers: npt.NDArray[np.uint8]
    segments: tuple[Segment, ...]

    def mask(self, segment: Segment) -> npt.NDArray[np.bool_]:
        """The voxels [X, Y, Z] of a segment."""
        drawn: npt.NDArray[np.bool_] = self.layers[..., segment.layer] == segment.value
        return drawn


def read_segmentation(path: Path, like: Volume) -> Segmentation:
    """Read the segments of a file onto the grid of the scan ``like``, which it may cover in part.

    Raises:
        DataError: ``E-IMG-..`` it cannot be read, ``E-LABEL-02`` voxels that are no whole numbers, ``E-GEO-01``,
            ``E-GEO-02`` it does not lie on the voxels of the scan, ``E-SEG-08`` its header describes no segments.
    """
    volume = read_volume(path)
    deep = volume.array if volume.array.ndim == 4 else volume.array[..., None]
    if deep.dtype.kind not in "biu" or deep.min() < 0 or deep.max() > 255:
        found = f"{deep.dtype} from {deep.min():g} to {deep.max():g} in {path}"
        raise DataError("E-LABEL-02", path=path, found=found, expected="whole numbers from 0 to 255")
    placed = _placed(like, replace(volume, array=deep.astype(np.uint8), header=None))
    return Segmentation(placed, _segments(path, deep.shape[-1]))


def _placed(like: Volume, drawn: Volume) -> npt.NDArray[np.uint8]:
    """The layers on the grid of the scan; where they cover a part of it, with zeros around them."""
    if drawn.grid.shape == like.grid.shape:
        return on_grid_of(like, drawn).array
    part = reoriented(drawn, like.grid.axes)
    steps = np.linalg.solve(like.grid.matrix, part.grid.matrix)
    first = np.rint(steps[:3, 3]).astype(int)
    shifted = np.eye(4)
    shifted[:3, 3] = first
    fits = make_grid(part.array.shape, like.grid.matrix @ shifted)
    inside = (first >= 0).all() and (first + part.array.shape[:3] <= like.grid.shape).all()
    if not inside or not fits.matches(part.grid, GRID_TOLERANCE):
        # Says what differs.
        return on_grid_of(like, drawn).array
    whole = np.zeros((*like.grid.shape, part.array.shape[3]), dtype=np.uint8)
    box = tuple(slice(start, start + size) for start, size in zip(first, part.array.shape[:3], strict=True))
    whole[box] = part.array
    return whole


def _segments(path: Path, layers: int) -> tuple[Segment, ...]:
    """The segments in a header; files of 3D Slicer before 4.11 have a layer for each, with the value 1."""
    with path.open("rb") as stream:
        head = re.split(rb"\r?\n\r?\n", stream.read(_HEADER_LIMIT), maxsplit=1)[0]
    described: dict[int, dict[str, str]] = {}
    for key, value in _PAIR.findall(head):
        if match := _SEGMENT.fullmatch(key.decode("utf-8", "replace").strip()):
            described.setdefault(int(match[1]), {})[match[2]] = _unescaped(value.decode("utf-8", "replace").strip())
    segments = []
    for number, fields in sorted(described.items()):
        texts = fields.get("Layer", str(number)), fields.get("LabelValue", "1")
        if not all(text.isdigit() for text in texts) or int(texts[0]) >= layers:
            raise DataError("E-SEG-08", path=path, found=f"segment {number} in layer {texts[0]}, value {texts[1]}")
        segments.append(Segment(fields.get("ID", ""), fields.get("Name", ""), *map(int, texts)))
    if not segments:
        raise DataError("E-SEG-08", path=path, found=f"no Segment0_Name in the header of {path}")
    return tuple(segments)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda match: "\n" if match[1] == "n" else match[1], text)


def write_segmentation(path: Path, labels: npt.NDArray[np.uint8], grid: Grid, table: LabelTable) -> None:
    """Write labels [X, Y, Z] atomically. Equal labels and tables give equal bytes.

    Raises:
        ResourceError: ``E-DISK-01``.
    """
    lps = grid.matrix[:3] * [[-1.0], [-1.0], [1.0]]
    lines = [
        "NRRD0004",
        "type: unsigned char",
        "dimension: 3",
        "space: left-posterior-superior",
        f"sizes: {' '.join(map(str, grid.shape))}",
        f"space directions: {' '.join(_vector(lps[:, axis]) for axis in range(3))}",
        "kinds: domain domain domain",
        "encoding: gzip",
        f"space origin: {_vector(lps[:, 3])}",
        *_segment_lines(labels, table),
    ]
    header = "\n".join([*lines, "", ""]).encode()
    write_bytes(path, header + gzip.compress(labels.tobytes(order="F"), 6, mtime=0))


def _segment_lines(labels: npt.NDArray[np.uint8], table: LabelTable) -> Sequence[str]:
    pairs = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_ConversionParameters": "",
        "Segmentation_MasterRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    boxes = find_objects(labels, max_label=max(entry.value for entry in table))
    for number, entry in enumerate(table):
        segment = {
            "ID": f"Segment_{entry.value}",
            "Name": entry.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{value / 255:.6g}" for value in entry.colour),
            "ColorAutoGenerated": "0",
            "LabelValue": str(entry.value),
            "Layer": "0",
            # The first and last index along each axis.
            "Extent": " ".join(f"{part.start} {part.stop - 1}" for part in boxes[entry.value - 1] or [slice(0, 0)] * 3),
            "Tags": f"TerminologyEntry:{_terminology(entry.name)}|",
        }
        pairs |= {f"Segment{number}_{key}": value for key, value in segment.items()}
    escaped = str.maketrans({"\\": "\\\\", "\r": " ", "\n": "\\n"})
    return [f"{key}:={value.translate(escaped)}" for key, value in pairs.items()]


def _terminology(name: str) -> str:
    code = anatomy_code(name)
    category, kind, side = (
        f"SCT^{part.value}^{part.meaning}" if part else "^^" for part in (code.category, code.kind, code.side)
    )
    return "~".join((_TERMINOLOGY, category, kind, side, _ANATOMY, "^^", "^^"))


def _vector(values: npt.NDArray[np.float64]) -> str:
    return f"({','.join(repr(float(value)) for value in values)})"
