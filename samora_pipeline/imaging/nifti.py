"""Reading of NIfTI files: nibabel's header, a full checked read of the bytes, and what the field does with headers
that break the standard.

Orientation: the sform where its code is set, else the qform, else the voxel sizes (taken as LAS). Where two of them
disagree the volume carries a warning. Lengths in metres or micrometres become mm; the header keeps its unit, so that
label maps are written in it.

What NIfTI-1 leaves no doubt about is repaired in the header that the volume carries, as other readers (ITK, nibabel's
loader) do: a qfac of 0 is 1, quaternions are of length 1, sizes of 0 behind the third axis are 1, voxels of a single
file begin behind the header, a qform stands in for an sform without lengths.
"""

import math
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling

from samora_pipeline.imaging.byte_checks import GZIP_MAGIC, DamagedError, HeaderError, check_claim, inflate, reading
from samora_pipeline.imaging.volume import GRID_TOLERANCE, Grid, Volume, make_grid

NO_SPACING = b"voxel spacing unknown"
"""in the field ``descrip`` of files that were made from what states no spacing: NIfTI has no other word for it"""

_HEADERS = {
    size.to_bytes(4, order): kind
    for order in ("little", "big")
    for size, kind in ((348, nibabel.Nifti1Header), (540, nibabel.Nifti2Header))
}
_MAGIC = (b"n+1", b"n+2", b"ni1", b"ni2")
_LARGEST_HEADER = 540
_GZIP_WINDOW = 31
_FIRST_BYTES = 1 << 16
_ROUNDED = 1.001
# Codes of xyzt_units; all others leave the unit open, and then it is mm by custom.
_UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 0.001)}
_UNIT_MASK = 7


def read_nifti(path: Path) -> Volume:
    """Read a NIfTI file; see ``files.read_volume``.

    Raises:
        DamagedError, HeaderError, zlib.error, OSError: for ``byte_checks.reading``.
    """
    content = path.read_bytes()
    compressed = content.startswith(GZIP_MAGIC)
    header, doubts = _header(_start(path, content))
    if not compressed and path.name.lower().endswith(".gz"):
        doubts.append("the file is not compressed, although it is called .gz")
    shape = _shape(header)
    dtype, offset, count = header.get_data_dtype(), int(header["vox_offset"]), math.prod(shape)
    claimed = offset + count * dtype.itemsize
    check_claim(claimed, len(content), compressed)
    voxels = inflate(content, claimed) if compressed else content
    array = np.frombuffer(voxels, dtype, count, offset).reshape(shape, order="F")
    array = apply_read_scaling(array, *header.get_slope_inter())
    array = np.asarray(array, dtype=array.dtype.newbyteorder("="))
    return Volume(array, _grid(header), path, header, (*doubts, *_doubts(header)))


def read_nifti_grid(path: Path) -> Grid:
    """The grid of a NIfTI file from its header alone; whether its voxels are there is not checked.

    Raises:
        DataError: ``E-IMG-..`` for a header that cannot be read.
    """
    with reading(path), path.open("rb") as stream:
        header, _ = _header(_start(path, stream.read(_FIRST_BYTES)))
        _shape(header)
        return _grid(header)


def _start(path: Path, content: bytes) -> bytes:
    """The bytes of the header; a file may be called .gz without being compressed."""
    if not content.startswith(GZIP_MAGIC):
        if path.name.lower().endswith(".gz") and content[:4] not in _HEADERS:
            raise DamagedError(f"first bytes {content[:8]!r}, no gzip stream")
        return content[:_LARGEST_HEADER]
    start = zlib.decompressobj(_GZIP_WINDOW).decompress(content, _LARGEST_HEADER)
    if len(start) < nibabel.Nifti1Header.sizeof_hdr:
        raise DamagedError(f"compressed data that end after {len(start)} bytes, within the header")
    return start


def _header(start: bytes) -> tuple[Any, list[str]]:
    """The header, and sentences about what was repaired in it."""
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
    return header, [*_repair_layout(header), *_repair_forms(header)]


def _repair_layout(header: Any) -> list[str]:
    doubts = []
    if bytes(header["magic"]).startswith(b"n+") and header["vox_offset"] == 0:
        header["vox_offset"] = header.single_vox_offset
        doubts.append(f"the header does not say where voxels begin; byte {header.single_vox_offset} is taken")
    rank = int(header["dim"][0])
    for axis in range(4, rank + 1 if rank <= 7 else 0):
        if header["dim"][axis] == 0:
            header["dim"][axis] = 1
            doubts.append(f"the size of axis {axis} is 0 in the header; 1 is taken")
    return doubts


def _repair_forms(header: Any) -> list[str]:
    """Make every coded form one that can be computed; nothing that decides where voxels lie is invented."""
    doubts = []
    sizes = header["pixdim"]
    sizes[0] = -1 if sizes[0] < 0 else 1
    turn = np.array([header[name] for name in ("quatern_b", "quatern_c", "quatern_d")], dtype=np.float64)
    finite = np.isfinite([*turn, *sizes[1:4], *(header[f"qoffset_{axis}"] for axis in "xyz")]).all()
    if header["qform_code"] and not (finite and (sizes[1:4] >= 0).all()):
        if not header["sform_code"]:
            # Readers do not agree on what a negative size turns around.
            raise HeaderError(f"a qform with voxel sizes {_sizes(sizes[1:4])}", "finite values and positive sizes")
        header["qform_code"] = 0
        doubts.append("the qform has values that are negative or not finite, and is not used")
    elif header["qform_code"] and (length := float(np.linalg.norm(turn))) > 1:
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = turn / length
        if length > _ROUNDED:
            doubts.append(f"the quaternion of the qform has the length {length:.4g}; it is scaled to 1")
    lengths = np.linalg.norm(header.get_sform()[:3, :3], axis=0)
    if header["sform_code"] and header["qform_code"] and not (np.isfinite(lengths).all() and lengths.min() > 0):
        header["sform_code"] = 0
        doubts.append("the sform has an axis of length zero; the qform is used")
    used = sizes[1 : 1 + min(3, int(header["dim"][0]))]
    if not header["sform_code"] and (used == 0).any():
        used[used == 0] = 1
        header["descrip"] = NO_SPACING
        doubts.append("the header states no voxel sizes; the spacing is unknown")
    if not header["sform_code"]:
        # A flat image has no distance to a next slice, and readers do not agree on what stands for it.
        sizes[1:4][sizes[1:4] == 0] = 1
    return doubts


def _shape(header: Any) -> tuple[int, ...]:
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


def _grid(header: Any, affine: npt.NDArray[np.float64] | None = None) -> Grid:
    """The grid in mm of the affine that the header means, or of another one in the header's unit."""
    scaled = np.array(header.get_best_affine() if affine is None else affine, dtype=np.float64)
    scaled[:3] *= _UNITS.get(int(header["xyzt_units"]) & _UNIT_MASK, ("", 1.0))[1]
    known = bytes(header["descrip"]).rstrip(b"\0") != NO_SPACING
    return make_grid(_padded(header.get_data_shape()), scaled, known)


def _doubts(header: Any) -> tuple[str, ...]:
    coded = [name for name in ("sform", "qform") if header[f"{name}_code"]]
    if not coded:
        return ("the header states no orientation; the voxel axes are taken as LAS",)
    doubts = []
    grid, rank = _grid(header), len(header.get_data_shape())
    unit, scale = _UNITS.get(int(header["xyzt_units"]) & _UNIT_MASK, ("", 1.0))
    if np.array_equal(grid.matrix, np.eye(4)):
        doubts.append("the affine is the identity, as tools write it that have lost spacing and position")
    if unit:
        doubts.append(f"the header counts in {unit}, which are {scale:g} mm each")
    if len(coded) == 2:
        distance = grid.corner_distance(_grid(header, header.get_qform()))
        if distance > GRID_TOLERANCE * max(min(grid.steps), 1e-6):
            doubts.append(f"sform and qform disagree by {distance:.3g} mm; the sform is used")
    stated = scale * np.array(header["pixdim"][1:4], dtype=np.float64)
    if not np.allclose(stated[:rank], grid.steps[:rank], rtol=0.01):
        doubts.append(f"voxel sizes {_sizes(stated)} in pixdim differ from {_sizes(grid.steps)} in the affine used")
    return tuple(doubts)


def _padded(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape + (1,) * (3 - len(shape))


def _sizes(values: Any) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
