"""What lies in a folder of scans: the one rule by which convert, predict and evaluate find files and name cases.

A folder is walked to any depth, linked folders included, each folder once; hidden entries and those of macOS's
archives are left out. A file with the name of an image counts whatever the system says of it, so that a link that leads
nowhere or a file that cannot be read fails by name. A case is called after its file, below further folders with their
names before it: ``A/B/scan.nii.gz`` is ``A_B_scan``; a DICOM series after its folder.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from samora_pipeline.contracts.dataset import CHANNEL_NAME
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.dicom import find_series, is_dicom
from samora_pipeline.imaging.files import READABLE
from samora_pipeline.imaging.pictures import PICTURE_ENDINGS, is_picture

IMAGE_ENDINGS = (*READABLE, *PICTURE_ENDINGS)
"""files that hold volumes or slices; DICOM is told by content"""
FIRST_CHANNEL = "_0000"

_HIDDEN = (".", "__MACOSX")
_UNSAFE = re.compile(r"[^\w.-]+")

Channels = dict[int, list[Path]]
"""the files of a case by channel number; a sound case has one for each"""


@dataclass(frozen=True)
class FolderContent:
    """The files of one folder by name; ``fault``: it could not be listed."""

    folder: Path
    files: tuple[Path, ...]
    fault: DataError | None = None

    @property
    def images(self) -> list[Path]:
        """Volumes and pictures."""
        return [path for path in self.files if ending_of(path)]

    @property
    def volumes(self) -> list[Path]:
        """NIfTI, NRRD and MetaImage."""
        return [path for path in self.files if ending_of(path, READABLE)]

    @property
    def pictures(self) -> list[Path]:
        """PNG, TIFF and JPEG."""
        return [path for path in self.files if is_picture(path)]

    @cached_property
    def dicom(self) -> tuple[Path, ...]:
        """Files that are DICOM by name or by their first bytes."""
        return tuple(path for path in self.files if not ending_of(path) and path.is_file() and is_dicom(path))

    @property
    def others(self) -> list[Path]:
        """What is nothing of all that."""
        return [path for path in self.files if not ending_of(path) and path not in self.dicom]


@dataclass(frozen=True)
class SeriesFiles:
    """The files of one DICOM series, the name of its case and its modality; ``fault``: they cannot be distinguished."""

    name: str
    paths: tuple[Path, ...]
    modality: str = ""
    fault: DataError | None = None


def walk(source: Path, leave_out: Collection[Path] = ()) -> list[FolderContent]:
    """The folder ``source`` and all below it, each with its files; ``leave_out`` are folders not to be entered."""
    seen = {identity for folder in leave_out if (identity := _identity(folder))}
    return list(_walk(source, seen))


def _walk(folder: Path, seen: set[tuple[int, int]]) -> Iterator[FolderContent]:
    identity = _identity(folder)
    if identity is None or identity in seen:
        return
    seen.add(identity)
    try:
        entries = [path for path in sorted(folder.iterdir()) if not path.name.startswith(_HIDDEN)]
    except OSError as error:
        yield FolderContent(folder, (), DataError("E-IMG-07", path=folder, found=f"{error.strerror} ({folder})"))
        return
    below = [entry for entry in entries if _identity(entry)]
    yield FolderContent(folder, tuple(entry for entry in entries if entry not in below))
    # What is really here goes before links, which may lead to the same folders.
    for entry in sorted(below, key=lambda path: (path.is_symlink(), path)):
        yield from _walk(entry, seen)


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from others under any name; None for what is no folder."""
    try:
        if folder.is_dir():
            status = folder.stat()
            return status.st_dev, status.st_ino
    except OSError:
        pass
    return None


def case_name(source: Path, folder: Path, own: str = "") -> str:
    """The name of a case in ``folder`` of ``source``: the folders between, then ``own``; without either the source's.

    Letters of any script stay; other signs in the names of folders become ``_``.
    """
    parts = [_UNSAFE.sub("_", part) for part in folder.relative_to(source).parts]
    name = "_".join([*parts, own] if own else parts)
    return name or _UNSAFE.sub("_", source.resolve().name) or "series"


def series_in(source: Path, content: FolderContent) -> list[SeriesFiles]:
    """The DICOM series of one folder; where there are several, their names carry their number."""
    name = case_name(source, content.folder)
    try:
        series = find_series(content.dicom)
    except DataError as error:
        return [SeriesFiles(name, content.dicom, fault=error)]
    numbers = Counter(one.number for one in series)
    named = []
    for position, one in enumerate(series, start=1):
        unique = f"{one.number:03d}" if numbers[one.number] == 1 else f"{position:03d}_{one.number:03d}"
        named.append(SeriesFiles(name if len(series) == 1 else f"{name}_{unique}", one.paths, one.modality))
    return named


def ending_of(path: Path, endings: tuple[str, ...] = IMAGE_ENDINGS) -> str:
    """The longest of the endings that a file has, as it is written there; empty where it has none."""
    fitting = [ending for ending in endings if path.name.lower().endswith(ending)]
    return path.name[-len(max(fitting, key=len)) :] if fitting else ""


def group_channels(stems: Mapping[Path, str], *, numbered: bool | None = None) -> dict[str, Channels]:
    """Group files by case; ``stems`` are their names without ending.

    Four digits at the end of a name are a channel where they are (``numbered``), None: where any name ends with
    ``_0000``; otherwise they are part of the name. A name without a number is a case whose only channel is 0.
    """
    if numbered is None:
        numbered = any(name.endswith(FIRST_CHANNEL) for name in stems.values())
    grouped: dict[str, Channels] = {}
    for path, name in sorted(stems.items()):
        match = CHANNEL_NAME.match(name) if numbered else None
        case, number = (match["case"], int(match["channel"])) if match else (name, 0)
        grouped.setdefault(case, {}).setdefault(number, []).append(path)
    return dict(sorted(grouped.items()))


def fault_of_channels(case: str, channels: Channels) -> DataError | None:
    """What is wrong with the files of a case, whatever number of channels there should be.

    ``E-INPUT-02`` two files for one channel, ``E-CHAN-01`` numbers that do not run from 0.
    """
    twice = next((paths for paths in channels.values() if len(paths) > 1), None)
    if twice:
        found = f"{', '.join(path.name for path in twice)} in {twice[0].parent}"
        return DataError("E-INPUT-02", case=case, found=found)
    if sorted(channels) != list(range(len(channels))):
        found = ", ".join(paths[0].name for _, paths in sorted(channels.items()))
        return DataError("E-CHAN-01", case=case, found=found, expected="channels that are numbered from _0000")
    return None


def fault_of_name(name: str) -> DataError | None:
    """``E-CASE-02`` for a name of a case that cannot be one of files and of records: not of printable UTF-8."""
    if name.isprintable() and "/" not in name and not name.startswith(".") and name:
        return None
    return DataError("E-CASE-02", case=name, found=repr(name))


def repeated(names: Iterable[str]) -> set[str]:
    """Names that occur more than once."""
    return {name for name, count in Counter(names).items() if count > 1}
