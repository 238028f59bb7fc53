"""The store of preprocessed slices: source intensities on the source in-plane grid, one slice per chunk, each checked.

``CASE.b2nd`` (images), ``CASE_label.b2nd`` (labels) and ``CASE.json`` (the record) form a case. The record is written
last, so a case without it does not exist. blosc2 does not notice flipped bits, hence a CRC-32 per slice and channel.

Shape legend: S slices; C channels; H, W rows and columns in source pixels.
"""

import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import blosc2
import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.json_io import sealed, write_json
from samora_pipeline.contracts.plans import SliceAxis
from samora_pipeline.contracts.stored_case import StoredCase, read_stored_case, repair_command
from samora_pipeline.errors import DataError
from samora_pipeline.files import require_regular, write_bytes
from samora_pipeline.imaging.volume import Grid, slice_geometry

_CODEC = {"codec": blosc2.Codec.ZSTD, "clevel": 1, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1}

# A chunk is one slice: there is nothing to share out, and threads of blosc2 do not survive a fork.
_ONE_THREAD = {"nthreads": 1}


@dataclass(frozen=True)
class CasePaths:
    """The three files of a case."""

    images: Path
    labels: Path
    record: Path

    @classmethod
    def of(cls, folder: Path, case: str) -> Self:
        """The files of ``case`` in ``folder``."""
        return cls(folder / f"{case}.b2nd", folder / f"{case}_label.b2nd", folder / f"{case}.json")


def write_case(
    folder: Path, record: StoredCase, images: npt.NDArray[Any], labels: npt.NDArray[np.uint8] | None
) -> StoredCase:
    """Write images [S, C, H, W] (int16 or float32) and labels [S, H, W], then the record with their checksums.

    An old record is removed first, so that a kill leaves no case that mixes old and new. Returns the record as
    written (its checksums, shape and type are filled in from the arrays).

    Raises:
        ResourceError: ``E-DISK-01`` when the disk is full.
    """
    if images.dtype not in (np.int16, np.float32):
        raise ValueError(f"slices are stored as int16 or float32, not {images.dtype}")
    paths = CasePaths.of(folder, record.case)
    paths.record.unlink(missing_ok=True)
    _write_array(paths.images, images)
    if labels is None:
        paths.labels.unlink(missing_ok=True)
    else:
        _write_array(paths.labels, labels)
    slices, _, rows, columns = images.shape
    complete = replace(
        record,
        shape=(slices, rows, columns),
        dtype=images.dtype.name,
        image_crcs=tuple(tuple(_crc(channel) for channel in image) for image in images),
        label_crcs=None if labels is None else tuple(_crc(label) for label in labels),
    )
    complete = sealed(complete)
    write_json(complete, paths.record)
    return complete


class StoredSlices:
    """One stored case, open for reading; every slice is checked against its CRC when it is read.

    Opening reads the record and the array headers only. Objects may be sent to worker processes.
    """

    def __init__(self, folder: Path, record: StoredCase) -> None:
        self.folder = folder
        self.record = record
        paths = CasePaths.of(folder, record.case)
        channels = len(record.image_crcs[0]) if record.image_crcs else 0
        self._images = self._open_array(paths.images, (len(self), channels, *record.shape[1:]), record.dtype)
        labelled = record.label_crcs is not None
        self._labels = self._open_array(paths.labels, record.shape, "uint8") if labelled else None

    @classmethod
    def open(cls, folder: Path, case: str) -> Self:
        """Open ``case`` in a ``slices`` folder.

        Raises:
            DataError: ``E-STORE-01`` not preprocessed, ``E-STORE-02`` damaged.
        """
        path = CasePaths.of(folder, case).record
        if not path.is_file():
            raise DataError("E-STORE-01", case=case, found=f"no file {path}", fix=repair_command(folder))
        return cls(folder, read_stored_case(path))

    def __len__(self) -> int:
        return self.record.shape[0]

    def __reduce__(self) -> tuple[Any, ...]:
        # blosc2 handles do not travel between processes; the worker opens the files itself.
        return StoredSlices, (self.folder, self.record)

    @property
    def labelled(self) -> bool:
        """Whether the case has labels."""
        return self._labels is not None

    def image(self, index: int) -> npt.NDArray[Any]:
        """Return slice ``index`` as [C, H, W] in source units (int16 or float32).

        Raises:
            DataError: ``E-STORE-02`` naming case and slice when its bytes are not those that were written.
        """
        image = self._read(self._images, index)
        if tuple(_crc(channel) for channel in image) != self.record.image_crcs[index]:
            raise self._damaged(f"slice {index} of the images has another checksum")
        return image

    def labels(self, index: int) -> npt.NDArray[np.uint8]:
        """Return the labels of slice ``index`` as [H, W] uint8.

        Raises:
            DataError: ``E-STORE-02`` damaged, ``E-STORE-03`` when the case has no labels.
        """
        if self._labels is None or self.record.label_crcs is None:
            found = f"no label file when it was preprocessed ({self.folder})"
            raise DataError("E-STORE-03", record=self.record, found=found)
        labels: npt.NDArray[np.uint8] = self._read(self._labels, index)
        if _crc(labels) != self.record.label_crcs[index]:
            raise self._damaged(f"slice {index} of the labels has another checksum")
        return labels

    def require_axis(self, axis: SliceAxis) -> None:
        """Refuse slices that were not stored along ``axis``, as after another planning.

        Raises:
            DataError: ``E-STORE-04``.
        """
        own = self.record.geometry
        wanted = slice_geometry(Grid(own.raw_shape, own.raw_affine), axis)
        if (own.permutation, own.flips) != (wanted.permutation, wanted.flips):
            found = f"slices along the raw axis {own.permutation[0]} of {own.raw_shape} in {self.folder}"
            fix = repair_command(self.folder)
            raise DataError("E-STORE-04", record=self.record, axis=axis, found=found, fix=fix)

    def verify(self) -> None:
        """Read every slice and its labels once, for the checks alone.

        Raises:
            DataError: ``E-STORE-02`` for the first damaged slice.
        """
        for index in range(len(self)):
            self.image(index)
            if self.labelled:
                self.labels(index)

    def _open_array(self, path: Path, shape: tuple[int, ...], dtype: str) -> Any:
        try:
            require_regular(path)
            array = blosc2.open(str(path), mode="r", dparams=_ONE_THREAD)
        except Exception as error:  # a damaged frame makes blosc2 raise almost anything
            raise self._damaged(f"{path.name} cannot be opened ({error})") from error
        if not isinstance(array, blosc2.NDArray):
            raise self._damaged(f"{path.name} holds no array")
        if tuple(array.shape) != shape or array.dtype != np.dtype(dtype):
            raise self._damaged(f"{path.name} holds {array.dtype} {tuple(array.shape)}, not {dtype} {shape}")
        return array

    def _read(self, array: Any, index: int) -> npt.NDArray[Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)} in {self.record.case}")
        try:
            content: npt.NDArray[Any] = array[index]
        except Exception as error:  # as above
            raise self._damaged(f"slice {index} cannot be decoded ({error})") from error
        return content

    def _damaged(self, found: str) -> DataError:
        return DataError("E-STORE-02", record=self.record, found=found, fix=repair_command(self.folder))


def _write_array(path: Path, array: npt.NDArray[Any]) -> None:
    # Compressed in memory and written by Python, whose errors say what is wrong: blosc2's do not tell a full disk.
    # Slice by slice: the voxels may lie in another order, and a copy of a whole scan is as large as the scan.
    chunks = (1, *array.shape[1:])
    compressed = blosc2.empty(array.shape, dtype=array.dtype, chunks=chunks, cparams=dict(_CODEC))
    for index, content in enumerate(array):
        compressed[index] = np.ascontiguousarray(content)
    write_bytes(path, compressed.to_cframe())


def _crc(array: npt.NDArray[Any]) -> int:
    return zlib.crc32(np.ascontiguousarray(array).data)
