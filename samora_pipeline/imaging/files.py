"""Reading and writing of volumes by the ending of their file: NIfTI (``nifti``), NRRD and MetaImage (``itk_files``).

Only here and in ``nifti`` is nibabel.

Names and colours of labels stand in the XML extension of Connectome Workbench (NIfTI code 30, "caret"). Readers that do
not know it pass over it, as the format demands. TotalSegmentator's files carry the same XML.
"""

import gzip
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError

from samora_pipeline.contracts.label_table import LabelEntry, LabelTable
from samora_pipeline.errors import DataError
from samora_pipeline.files import write_bytes
from samora_pipeline.imaging.byte_checks import reading
from samora_pipeline.imaging.itk_files import META_ENDINGS, NRRD_ENDINGS, read_itk, read_itk_grid, write_itk
from samora_pipeline.imaging.nifti import NO_SPACING, read_nifti, read_nifti_grid
from samora_pipeline.imaging.volume import Grid, Volume

_CARET = 30
# Beyond this it is no table of at most 255 names.
_LARGEST = 1 << 20


def read_label_names(path: Path) -> LabelTable:
    """The table in a NIfTI file's header; empty where the file names no labels.

    Raises:
        DataError: ``E-LABEL-13`` for a table that cannot be understood; ``E-IMG-02`` for a file without a header.
    """
    with reading(path, ImageFileError, OSError, EOFError, ValueError):
        with path.open("rb") as stream:
            # nibabel takes a file that the system does not let read for an empty one.
            stream.read(1)
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
SEGMENTATION_ENDING = ".seg.nrrd"
"""segmentations of 3D Slicer: the ending of label maps, never of scans"""
READABLE = NIFTI_ENDINGS + NRRD_ENDINGS + META_ENDINGS
WRITABLE = (*NIFTI_ENDINGS, ".nrrd", ".mha")

_GZIP_LEVEL = 3
# cos of the angle between two axes: 0.01 is half a degree, more than rounding of a header gives.
_SHEAR = 0.01
# A thousandth of the voxels that electron microscopes make, in mm.
_SHORTEST = 1e-9
# Types that NIfTI has no everyday code for, and what holds their values.
_STORED = {"f2": "f4", "f8": "f4", "i8": "i4", "u8": "u4"}


def read_volume(path: Path) -> Volume:
    """Read a volume completely and check it on the way.

    Arrays are [X, Y, Z], or [X, Y, Z, C] when there is a fourth axis longer than 1; a 2-D image gets Z = 1. Values
    keep the stored type unless the header scales them. NaN and infinite values are kept.

    Raises:
        DataError: ``E-IMG-01`` missing or of an unknown format, ``E-IMG-02`` truncated or damaged, ``E-IMG-03``
            unusable header, ``E-IMG-04`` unusable affine, ``E-IMG-07`` not to be read.
    """
    if not path.name.lower().endswith(READABLE) and path.is_file():
        raise unknown_format(path, READABLE)
    with reading(path, RuntimeError):
        volume = read_nifti(path) if path.name.lower().endswith(NIFTI_ENDINGS) else read_itk(path)
    _check_affine(path, volume.grid)
    return volume


def read_grid(path: Path) -> Grid:
    """The grid of a volume from its header alone; whether its voxels are there is not checked.

    Raises:
        DataError: ``E-IMG-..`` for a header that cannot be read.
    """
    return read_nifti_grid(path) if path.name.lower().endswith(NIFTI_ENDINGS) else read_itk_grid(path)


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
    _write(path, _plain_image(stored, grid, "mm"), stored, grid)


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
    """The name of a file without the ending of its format; 3D Slicer's ``.seg.nrrd`` is one."""
    endings = (SEGMENTATION_ENDING, *READABLE)
    return next((path.name[: -len(end)] for end in endings if path.name.lower().endswith(end)), path.stem)


def unknown_format(path: Path, endings: tuple[str, ...]) -> DataError:
    """The error for a file whose ending is not among ``endings`` (``E-IMG-01``)."""
    return DataError("E-IMG-01", path=path, found=str(path), expected=f"a name that ends in {', '.join(endings)}")


def _check_affine(path: Path, grid: Grid) -> None:
    matrix = grid.matrix
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    fault = ""
    if not np.isfinite(matrix).all() or lengths.min() < _SHORTEST:
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


def _plain_image(array: npt.NDArray[Any], grid: Grid, unit: str = "unknown") -> Any:
    image = nibabel.Nifti1Image(array, grid.matrix)
    image.set_sform(grid.matrix, 1)
    image.set_qform(grid.matrix, 1)
    if grid.spacing_known:
        image.header.set_xyzt_units(unit)
    else:
        image.header["descrip"] = NO_SPACING
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
