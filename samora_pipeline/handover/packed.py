"""Reading an exported model that may come from anywhere: every entry is judged before the first byte is written.

What is accepted is a list of names and nothing else, so a name cannot lead out of the folder. Weights are never
compressed in an export and texts are small, so nothing can swell.
"""

from __future__ import annotations

import hashlib
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.handover.contents import kind_of

LARGEST_TEXT = 16 << 20
MOST_FILES = 200

_BLOCK = 1 << 20
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class PackedModel:
    """An exported model, packed or as a folder: the size in bytes of each file by name, after all were judged."""

    path: Path
    sizes: dict[str, int]

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open one file for reading."""
        if self.path.is_dir():
            with (self.path / name).open("rb") as stream:
                yield stream
            return
        with zipfile.ZipFile(self.path) as archive, archive.open(name) as stream:
            yield stream

    def read(self, name: str) -> bytes:
        """The bytes of a text.

        Raises:
            DataError: ``E-IMPORT-03`` when they cannot be read or are more than was stated.
        """
        return b"".join(self.blocks(name))

    def digest(self, name: str) -> str:
        """The SHA-256 of one file, of whatever size; raises as ``read``."""
        digest = hashlib.sha256()
        for block in self.blocks(name):
            digest.update(block)
        return digest.hexdigest()

    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of one file, piece by piece; raises as ``read``."""
        left = self.sizes[name]
        try:
            with self.open(name) as stream:
                while block := stream.read(_BLOCK):
                    left -= len(block)
                    if left < 0:
                        raise damaged(self.path, f"{name} holds more than the {self.sizes[name]} bytes it states")
                    yield block
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise damaged(self.path, f"{name}: {error}") from error
        if left:
            raise damaged(self.path, f"{name} ends {left} bytes early")


def open_packed(path: Path) -> PackedModel:
    """Judge every entry of a zip, or every file of a folder.

    Raises:
        AssetError: ``E-IMPORT-01`` nothing there, or no zip. DataError: ``E-IMPORT-02`` an entry that no export has.
    """
    if path.is_dir():
        return PackedModel(path, _folder_sizes(path))
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise AssetError(
            "E-IMPORT-01",
            "this is no exported model",
            found=f"no zip: {path}" if path.is_file() else f"no file or folder {path}",
            expected="a zip or a folder that samora_export wrote",
            fix="samora_export RUN -o FILE.zip  on the machine that has the run",
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise damaged(path, str(error)) from error
    _check_count(path, len(entries))
    for entry in entries:
        if fault := _entry_fault(entry):
            raise refused(path, f"{entry.orig_filename[:200]!r}: {fault}")
    _check_twins(path, [entry.filename for entry in entries])
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise refused(path, "entries that share their bytes")
    sizes = {entry.filename: entry.file_size for entry in entries}
    if (texts := sum(size for name, size in sizes.items() if kind_of(name) == "text")) > 2 * LARGEST_TEXT:
        raise refused(path, f"texts of {texts:,} bytes in all")
    return PackedModel(path, sizes)


def refused(path: Path, found: str) -> DataError:
    """The error for something that no export holds."""
    return DataError(
        "E-IMPORT-02",
        f"{path.name} holds what no exported model holds; nothing was written",
        found=found,
        expected="the files that samora_export writes, each once, as plain files",
        fix="get the file again from where it was exported; do not unpack this one by other means",
    )


def damaged(path: Path, found: str) -> DataError:
    """The error for a file that is not what it states of itself."""
    return DataError(
        "E-IMPORT-03",
        f"{path.name} is damaged or was changed after it was exported; nothing was written",
        found=found,
        expected="the sizes and digests in its digests.json",
        fix="get the file again from where it was exported",
    )


def _entry_fault(entry: zipfile.ZipInfo) -> str:
    """What is wrong with an entry of a zip; empty when nothing is."""
    kind, mode = kind_of(entry.filename), entry.external_attr >> 16
    faults = (
        (kind is None or entry.orig_filename != entry.filename, "no name of a file in an export"),
        (stat.S_IFMT(mode) not in (0, stat.S_IFREG), "a link, a folder or a device"),
        (bool(entry.flag_bits & _ENCRYPTED), "encrypted"),
        (entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED), "packed in an unusual way"),
        (kind == "weights" and entry.compress_type != zipfile.ZIP_STORED, "weights that are compressed"),
        (kind == "weights" and entry.file_size != entry.compress_size, "sizes that contradict each other"),
        (kind == "text" and entry.file_size > LARGEST_TEXT, f"a text of {entry.file_size:,} bytes"),
    )
    return next((text for wrong, text in faults if wrong), "")


def _folder_sizes(folder: Path) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for path in sorted(_walk(folder, folder)):
        name = path.relative_to(folder).as_posix()
        state = path.lstat()
        faults = (
            (not stat.S_ISREG(state.st_mode), "a link or a device"),
            (state.st_nlink > 1, "a file with a second name elsewhere (a hard link)"),
            (kind_of(name) is None, "no name of a file in an export"),
            (kind_of(name) == "text" and state.st_size > LARGEST_TEXT, f"a text of {state.st_size:,} bytes"),
        )
        if fault := next((text for wrong, text in faults if wrong), ""):
            raise refused(folder, f"{name[:200]!r}: {fault}")
        sizes[name] = state.st_size
    _check_twins(folder, list(sizes))
    return sizes


def _walk(folder: Path, root: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder itself; links to folders are not followed."""
    entries: list[Any] = sorted(folder.iterdir())
    _check_count(root, len(entries))
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink() and folder == root:
            yield from _walk(entry, root)
        else:
            yield entry


def _check_count(path: Path, count: int) -> None:
    if count > MOST_FILES:
        raise refused(path, f"{count} entries")


def _check_twins(path: Path, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name.casefold() in seen:
            raise refused(path, f"{name!r} twice (upper and lower case count as one)")
        seen.add(name.casefold())
