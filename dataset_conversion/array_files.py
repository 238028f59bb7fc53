"""Arrays by name out of .npz and HDF5 files; nothing in them is ever executed.

A truncated file is an error in both. Flipped bits are found in .npz, which keeps checksums, but not in HDF5 files
that were written without them (those of Synapse and LA).
"""

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.byte_checks import HeaderError, check_claim, reading

_HDF5 = (".h5", ".hdf5")


def read_arrays(path: Path, *names: str) -> tuple[npt.NDArray[Any], ...]:
    """Read the named arrays of a .npz or HDF5 file; others in it are not touched.

    Raises:
        DataError: ``E-IMG-01`` no such file, ``E-IMG-02`` damaged, ``E-IMG-03`` no plain numbers or too many of
            them, ``E-ARRAY-01`` an array of that name is not in it.
    """
    with reading(path, OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile):
        return _from_hdf5(path, names) if path.name.endswith(_HDF5) else _from_npz(path, names)


def _from_npz(path: Path, names: tuple[str, ...]) -> tuple[npt.NDArray[Any], ...]:
    with np.load(path, allow_pickle=False) as archive:
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("not an archive of arrays")
        _require(path, names, set(archive.files))
        members = archive.zip.infolist() if archive.zip else []
        claimed = sum(member.file_size for member in members if member.filename.removesuffix(".npy") in names)
        check_claim(claimed, path.stat().st_size, compressed=True)
        return tuple(archive[name] for name in names)


def _from_hdf5(path: Path, names: tuple[str, ...]) -> tuple[npt.NDArray[Any], ...]:
    with h5py.File(path, "r") as file:
        # Links may lead to other files, so they are looked at before they are followed.
        own = [name for name in file if isinstance(file.get(name, getlink=True), h5py.HardLink)]
        _require(path, names, {name for name in own if isinstance(file[name], h5py.Dataset)})
        for name in names:
            _check_kept_here(file[name])
        check_claim(sum(file[name].nbytes for name in names), path.stat().st_size, compressed=True)
        return tuple(np.asarray(file[name][()]) for name in names)


def _check_kept_here(stored: h5py.Dataset) -> None:
    if stored.is_virtual or stored.external or stored.dtype.kind not in "iufb":
        found = f"{stored.name} of type {stored.dtype}, or kept in other files"
        raise HeaderError(found, "numbers in the file itself")


def _require(path: Path, names: tuple[str, ...], present: set[str]) -> None:
    missing = [name for name in names if name not in present]
    if missing:
        found = f"{', '.join(sorted(present)) or 'none'} in {path}"
        raise DataError("E-ARRAY-01", path=path, found=found, expected=", ".join(names))
