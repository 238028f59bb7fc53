"""Reading an exported model that may come from anywhere: every entry is checked before the first byte is written.

Only listed names are accepted, so a name cannot lead out of the folder. Weights are never compressed in an export and
texts are small, so nothing can expand beyond its stated size.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.handover.contents import kind_of

LARGEST_TEXT = 16 << 20
MOST_FILES = 200

_BLOCK = 1 << 20


@dataclass(frozen=True)
class PackedModel:
    """An exported model, packed or as a folder: the size in bytes of each file by name, after all were checked."""

    path: Path
    sizes: dict[str, int]

    def digest(self, name: str, copy: IO[bytes] | None = None) -> str:
        """The SHA-256 of one file, which is also written to ``copy`` where that is given.

        Raises:
            DataError: ``E-IMPORT-03`` when the file cannot be read, or has another size than it states.
        """
        digest = hashlib.sha256()
        for block in self.blocks(name):
            digest.update(block)
            if copy is not None:
                copy.write(block)
        return digest.hexdigest()

    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of one file, piece by piece; raises as ``digest``."""
        root = self.path if self.path.is_dir() else zipfile.Path(self.path)
        left = self.sizes[name]
        try:
            with root.joinpath(name).open("rb") as stream:
                while left >= 0 and (block := stream.read(_BLOCK)):
                    left -= len(block)
                    yield block
        # RuntimeError and NotImplementedError: zipfile's for passwords and unknown compressions.
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise damaged(self.path, f"{name}: {error}") from error
        if left:
            raise damaged(self.path, f"{name} does not have the {self.sizes[name]:,} bytes that it states")


def open_packed(path: Path) -> PackedModel:
    """Check every entry of a zip, or every file of a folder.

    Raises:
        AssetError: ``E-IMPORT-01`` nothing there, or no zip.
        DataError: ``E-IMPORT-02`` an entry that no export has, ``E-IMPORT-03`` a damaged directory of the zip.
    """
    if path.is_dir():
        return _checked(path, ((file.relative_to(path).as_posix(), *_file_state(file)) for file in _walk(path)))
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise AssetError("E-IMPORT-01", found=f"no zip: {path}" if path.is_file() else f"no file or folder {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise damaged(path, str(error)) from error
    # The name as it is written, of which zipfile's own is a cleaned copy.
    model = _checked(path, ((entry.orig_filename, entry.file_size, _entry_fault(entry)) for entry in entries))
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise refused(path, "entries that share their bytes")
    return model


def refused(path: Path, found: str) -> DataError:
    """The error for something that no export holds."""
    return DataError("E-IMPORT-02", path=path, found=found)


def damaged(path: Path, found: str) -> DataError:
    """The error for a file that is not what it states of itself."""
    return DataError("E-IMPORT-03", path=path, found=found)


def _checked(path: Path, entries: Iterable[tuple[str, int, str]]) -> PackedModel:
    """The model of entries (name, bytes, fault), each of which is a plain file with the name of a file of an export."""
    sizes: dict[str, int] = {}
    seen: set[str] = set()
    for name, size, fault in entries:
        kind = kind_of(name)
        if kind is None:
            fault = "no name of a file in an export"
        elif kind == "text" and size > LARGEST_TEXT:
            fault = f"a text of {size:,} bytes"
        elif name.casefold() in seen:
            fault = "there twice (upper and lower case count as one)"
        elif len(seen) == MOST_FILES:
            fault = f"more than {MOST_FILES} entries"
        if fault:
            raise refused(path, f"{name[:200]!r}: {fault}")
        seen.add(name.casefold())
        sizes[name] = size
    if (texts := sum(size for name, size in sizes.items() if kind_of(name) == "text")) > 2 * LARGEST_TEXT:
        raise refused(path, f"texts of {texts:,} bytes in all")
    return PackedModel(path, sizes)


def _entry_fault(entry: zipfile.ZipInfo) -> str:
    """What is wrong with an entry of a zip beside its name and its size; empty when nothing is."""
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        return "a link, a folder or a device"
    if entry.compress_type == zipfile.ZIP_STORED:
        return ""
    text = entry.compress_type == zipfile.ZIP_DEFLATED and kind_of(entry.filename) == "text"
    return "" if text else "packed in an unusual way"


def _file_state(path: Path) -> tuple[int, str]:
    """The bytes of a file in a folder, and what is wrong with it beside its name."""
    state = path.lstat()
    if not stat.S_ISREG(state.st_mode):
        return 0, "a link or a device"
    return state.st_size, "a file with a second name elsewhere (a hard link)" if state.st_nlink > 1 else ""


def _walk(root: Path) -> Iterator[Path]:
    """Everything in a folder and in the folders directly below it; links to folders are not followed."""
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            yield from sorted(entry.iterdir())
        else:
            yield entry
