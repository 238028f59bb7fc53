"""Reading and writing of volumes by the ending of their file; the only importer of nibabel.

NIfTI goes through nibabel's header with a full checked read of the bytes, NRRD and MetaImage through ``itk_files``.

Orientation of NIfTI: the sform where its code is set, else the qform, else the voxel sizes (taken as LAS). Where two
of them disagree the volume carries a warning.

Names and colours of labels stand in the XML extension of Connectome Workbench (NIfTI code 30, "caret"). Readers that do
not know it pass over it, as the format demands. TotalSegmentator's files carry the same XML.
"""

import gzip
import math
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from samora_pipeline.contracts.label_table import LabelEntry, LabelTable
from samora_pipeline.errors import DataError
from samora_pipeline.files import write_bytes
from samora_pipeline.imaging.byte_checks import GZIP_MAGIC, DamagedError, HeaderError, check_claim, inflate, reading
from samora_pipeline.imaging.itk_files import META_ENDINGS, NRRD_ENDINGS, read_itk, write_itk
from samora_pipeline.imaging.volume import GRID_TOLERANCE, Grid, Volume, make_grid

_CARET = 30
# Beyond this it is no table of at most 255 names.
_LARGEST = 1 << 20


def read_label_names(path: Path) -> LabelTable:
    """The table in a NIfTI file's header; empty where the file names no labels.

    Raises:
        DataError: ``E-LABEL-13`` for a table that cannot be understood; ``E-IMG-02`` for a file without a header.
    """
    with reading(path, ImageFileError, OSError, EOFError, ValueError):
        extensions = nibabel.load(path).header.extensions
    for extension in extensions:
        # nibabel before 5.3 knows get_content alone, later ones refuse it for codes that they do not interpret.
        content = extension.content if hasattr(extension, "content") else extension.get_content()
        if isinstance(content, bytes) and b"<LabelTable" in content[:_LARGEST]:
            return from_xml(content, path)
    return ()


def as_xml(table: LabelTable) -> bytes:
    """The table as the text of the extension."""
    root = ElementTree.Element("CaretExtension")
    volume = ElementTree.SubElement(root, "VolumeInformation", Index="0")
    labels = ElementTree.SubElement(volume, "LabelTable")
    for entry in table:
        red, green, blue = (f"{value / 255:.6g}" for value in entry.colour)
        attributes = {"Key": str(entry.value), "Red": red, "Green": green, "Blue": blue, "Alpha": "1"}
        ElementTree.SubElement(labels, "Label", attributes).text = entry.name
    ElementTree.SubElement(volume, "VolumeType").text = "Label"
    content: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return content


def from_xml(content: bytes, path: Path) -> LabelTable:
    """The table in the text of an extension; ``path`` is named in errors."""
    text = content.rstrip(b"\0 \n")
    if len(text) > _LARGEST or b"<!" in text.replace(b"<![CDATA[", b""):
        # No table needs a document type, and entities can grow without end.
        raise DataError("E-LABEL-13", path=path, found=f"it is too large or declares entities in {path}")
    try:
        labels = ElementTree.fromstring(text).iter("Label")
        table = tuple(_entry(label) for label in labels)
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise DataError("E-LABEL-13", path=path, found=f"{error} in {path}") from error
    return tuple(sorted((entry for entry in table if entry.value > 0), key=lambda entry: entry.value))


def _entry(label: ElementTree.Element) -> LabelEntry:
    red, green, blue = (min(255, max(0, round(255 * float(label.attrib[key])))) for key in ("Red", "Green", "Blue"))
    return LabelEntry(int(label.attrib["Key"]), (label.text or "").strip(), (red, green, blue))


NIFTI_ENDINGS = (".nii.gz", ".nii")
READABLE = NIFTI_ENDINGS + NRRD_ENDINGS + META_ENDINGS
WRITABLE = (*NIFTI_ENDINGS, ".nrrd", ".mha")

_HEADERS = {
    size.to_bytes(4, order): kind
    for order in ("little", "big")
    for size, kind in ((348, nibabel.Nifti1Header), (540, nibabel.Nifti2Header))
}
_MAGIC = (b"n+1", b"n+2", b"ni1", b"ni2")
_GZIP_LEVEL, _GZIP_WINDOW = 3, 31
# cos of the angle between two axes: 0.01 is half a degree, more than rounding of a header gives.
_SHEAR = 0.01
# Types that NIfTI has no everyday code for, and what holds their values.
_STORED = {"f2": "f4", "f8": "f4", "i8": "i4", "u8": "u4"}


def read_volume(path: Path) -> Volume:
    """Read a volume completely and check it on the way.

    Arrays are [X, Y, Z], or [X, Y, Z, C] when there is a fourth axis longer than 1; a 2-D image gets Z = 1. Values
    keep the stored type unless the header scales them. NaN and infinite values are kept.

    Raises:
        DataError: ``E-IMG-01`` missing or of an unknown format, ``E-IMG-02`` truncated or damaged, ``E-IMG-03``
            unusable header, ``E-IMG-04`` unusable affine.
    """
    if not path.name.lower().endswith(READABLE) and path.is_file():
        raise unknown_format(path, READABLE)
    with reading(path, RuntimeError):
        volume = _read_nifti(path) if path.name.lower().endswith(NIFTI_ENDINGS) else read_itk(path)
    _check_affine(path, volume.grid)
    return volume


def write_volume(path: Path, array: npt.NDArray[Any], grid: Grid) -> None:
    """Write an image [X, Y, Z] atomically, in its own type where NIfTI has it. Equal arrays give equal bytes.

    Raises:
        DataError: ``E-IMG-01`` for an ending that cannot be written.
        ValueError: when 64-bit whole numbers do not fit into 32 bits.
    """
    kind = np.dtype(_STORED.get(array.dtype.str[1:], array.dtype.str)).newbyteorder("=")
    stored = array.astype(kind)
    if kind.kind in "iu" and not np.array_equal(stored, array):
        raise ValueError(f"values of {path.name} do not fit into {kind}")
    image = _plain_image(stored, grid)
    image.header.set_xyzt_units("mm")
    _write(path, image, stored, grid)


def write_labels(path: Path, labels: npt.NDArray[np.uint8], like: Volume, names: LabelTable = ()) -> None:
    """Write a label map [X, Y, Z] atomically on the grid of ``like``, with its shape, affine and orientation codes.

    NIfTI headers carry ``names`` and colours of the labels (``label_names``). The same labels give the same bytes.

    Raises:
        DataError: ``E-IMG-01`` for an ending that cannot be written.
        ValueError: when labels are not uint8 or not on the grid of ``like``.
    """
    if labels.dtype != np.uint8 or labels.shape != like.grid.shape:
        raise ValueError(f"labels {labels.dtype} {labels.shape} do not fit the grid {like.grid.shape}")
    image = _label_image(labels, like)
    if names:
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(_CARET, as_xml(names)))
    _write(path, image, labels, like.grid)


def stem(path: Path) -> str:
    """The name of a file without the ending of its format."""
    return next((path.name[: -len(end)] for end in READABLE if path.name.lower().endswith(end)), path.stem)


def unknown_format(path: Path, endings: tuple[str, ...]) -> DataError:
    """The error for a file whose ending is not among ``endings`` (``E-IMG-01``)."""
    return DataError("E-IMG-01", path=path, found=str(path), expected=f"a name that ends in {', '.join(endings)}")


def _read_nifti(path: Path) -> Volume:
    content: bytes | bytearray = path.read_bytes()
    compressed = content.startswith(GZIP_MAGIC)
    if not compressed and path.name.lower().endswith(".gz"):
        raise DamagedError(f"first bytes {content[:8]!r}, no gzip stream")
    start = zlib.decompressobj(_GZIP_WINDOW).decompress(content, 540) if compressed else content[:540]
    if compressed and len(start) < nibabel.Nifti1Header.sizeof_hdr:
        raise DamagedError(f"compressed data that end after {len(start)} bytes, within the header")
    header = _nifti_header(start)
    shape = _nifti_shape(header)
    dtype, offset, count = header.get_data_dtype(), int(header["vox_offset"]), math.prod(shape)
    claimed = offset + count * dtype.itemsize
    check_claim(claimed, len(content), compressed)
    if compressed:
        content = inflate(content, claimed)
    array = np.frombuffer(content, dtype, count, offset).reshape(shape, order="F")
    array = apply_read_scaling(array, *header.get_slope_inter())
    array = np.asarray(array, dtype=array.dtype.newbyteorder("="))
    affine = header.get_best_affine()
    return Volume(array, make_grid(shape, affine), path, header, _header_doubts(header, affine))


def _nifti_header(start: bytes) -> Any:
    kind = _HEADERS.get(start[:4])
    if kind is None or (start[344:347] if kind is nibabel.Nifti1Header else start[4:7]) not in _MAGIC:
        raise HeaderError(f"first bytes {start[:8]!r}", "a NIfTI-1 or NIfTI-2 file")
    if len(start) < kind.sizeof_hdr:
        raise DamagedError(f"{len(start)} bytes, less than a header")
    try:
        header = kind(start[: kind.sizeof_hdr], check=False)
        header.get_data_dtype()
        header.get_slope_inter()
    except (HeaderDataError, KeyError) as error:
        raise HeaderError(str(error), "a NIfTI header with a known data type") from error
    return header


def _nifti_shape(header: Any) -> tuple[int, ...]:
    if bytes(header["magic"]).startswith(b"ni"):
        raise HeaderError("a header without voxels (pair of .hdr and .img)", "one .nii or .nii.gz file")
    if header.get_data_dtype().kind not in "iuf":
        raise HeaderError(f"voxels of type {header.get_data_dtype()}", "whole or real numbers")
    rank, start = int(header["dim"][0]), float(header["vox_offset"])
    shape = tuple(int(size) for size in header["dim"][1 : rank + 1]) if 1 <= rank <= 7 else ()
    if not shape or min(shape) < 1 or not header.sizeof_hdr <= start <= 1 << 24:
        raise HeaderError(f"sizes {shape}, voxels from byte {start:g}", "positive sizes and an offset")
    shape = _padded(shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) > 4:
        raise HeaderError(f"{len(shape)} dimensions {shape}", "three, or four with channels last")
    return shape


def _header_doubts(header: Any, affine: npt.NDArray[np.float64]) -> tuple[str, ...]:
    coded = {name: code for name, code in (("sform", header["sform_code"]), ("qform", header["qform_code"])) if code}
    if not coded:
        return ("the header states no orientation; the voxel axes are taken as LAS",)
    doubts = []
    grid = make_grid(_padded(header.get_data_shape()), affine)
    if len(coded) == 2:
        distance = grid.corner_distance(make_grid(grid.shape, header.get_qform()))
        if distance > GRID_TOLERANCE * max(min(grid.spacing), 1e-6):
            doubts.append(f"sform and qform disagree by {distance:.3g} mm; the sform is used")
    stated = np.abs(np.array(header["pixdim"][1:4], dtype=np.float64))
    if not np.allclose(stated[: len(header.get_data_shape())], grid.spacing[: len(header.get_data_shape())], rtol=0.01):
        doubts.append(f"voxel sizes {_sizes(stated)} in pixdim differ from {_sizes(grid.spacing)} in the affine used")
    return tuple(doubts)


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape + (1,) * (3 - len(shape))


def _sizes(values: Any) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


def _check_affine(path: Path, grid: Grid) -> None:
    matrix = grid.matrix
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    fault = ""
    if not np.isfinite(matrix).all() or lengths.min() < 1e-6:
        fault = "a voxel axis of length zero, or values that are not finite"
    else:
        cosines = (matrix[:3, :3] / lengths).T @ (matrix[:3, :3] / lengths)
        if (worst := float(np.abs(cosines - np.eye(3)).max())) > _SHEAR:
            fault = f"axes that are not at right angles (cosine {worst:.3f})"
    if fault:
        raise DataError("E-IMG-04", path=path, found=f"{fault}: {np.round(matrix[:3], 4).tolist()} in {path}")


def _label_image(labels: npt.NDArray[np.uint8], like: Volume) -> Any:
    if like.header is None:
        return _plain_image(labels, like.grid)
    kind = nibabel.Nifti2Image if isinstance(like.header, nibabel.Nifti2Header) else nibabel.Nifti1Image
    header = like.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    stored = like.header.get_data_shape()
    # A 2-D file, or one with trailing axes of length 1, gets its labels in the very same shape.
    shape = stored if math.prod(stored) == labels.size else labels.shape
    return kind(labels.reshape(shape, order="F"), None, header)


def _plain_image(array: npt.NDArray[Any], grid: Grid) -> Any:
    image = nibabel.Nifti1Image(array, grid.matrix)
    image.set_sform(grid.matrix, 1)
    image.set_qform(grid.matrix, 1)
    return image


def _write(path: Path, image: Any, array: npt.NDArray[Any], grid: Grid) -> None:
    """Write ``image`` as NIfTI, or ``array`` in the format of another ending."""
    name = path.name.lower()
    if not name.endswith(WRITABLE):
        raise unknown_format(path, WRITABLE)
    if not name.endswith(NIFTI_ENDINGS):
        write_itk(path, array, grid)
        return
    content = image.to_bytes()
    write_bytes(path, gzip.compress(content, _GZIP_LEVEL, mtime=0) if name.endswith(".gz") else content)
