"""Which files belong to which case: the names are settled for all cases before anything is read or written.

A case is a file per channel, or a DICOM series: a folder of series, a folder of folders with series, or a file of one.
"""

import glob
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.contracts.dataset import CHANNEL_NAME
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.imaging.dicom import DICOM_ENDINGS, find_series, is_dicom
from samora_pipeline.imaging.files import WRITABLE
from samora_pipeline.registry import shortened

_LABEL_ENDING = ".nii.gz"
"""label maps of DICOM series are NIfTI files on the grid of the series"""
_PICTURE, _IN_COLOUR, _FIRST_CHANNEL = ".png", 3, "_0000"
_ENDINGS = (*WRITABLE, _PICTURE)
_DIRECTORY = "DICOMDIR"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class InputCase:
    """A case: its channels in order, and the ending of its label map.

    ``dicom``: ``channels`` are the files of one DICOM series, which hold one channel together. ``wanted`` is the number
    of channels that the model takes: a picture in colour holds three.
    """

    name: str
    channels: tuple[Path, ...]
    ending: str
    dicom: bool = False
    wanted: int = 1


def find_cases(source: Path, channel_names: tuple[str, ...]) -> list[InputCase]:
    """Return the cases of a folder, or the one case of a file, sorted by name.

    Files are named ``CASE_0000.nii.gz`` as in nnU-Net. A model with a single channel also takes plain names: then a
    name without a number is a case, and where no file is numbered ``_0000`` all names are plain.

    Where there are no such files, DICOM series are looked for (see ``_dicom_cases``).

    Raises:
        DataError: ``E-INPUT-01`` nothing there, ``E-INPUT-02`` one name twice, ``E-CHAN-04`` channels that the model
            does not take (every offender is named), ``E-CHAN-07`` DICOM for a model with several channels.
    """
    entries = [source] if source.is_file() else sorted(source.iterdir()) if source.is_dir() else []
    files = [path for path in entries if path.is_file() and _ending(path) and path.name[0] != "."]
    if not files and (series := _dicom_cases(source, len(channel_names))):
        return series
    if not files:
        raise _nothing(source)
    if source.is_file() and len(channel_names) > 1:
        files = _siblings(source)
    if len(channel_names) == _IN_COLOUR and (pictures := _in_colour(files)):
        return pictures
    grouped = _group(files, single=len(channel_names) == 1)
    _check_channels(grouped, channel_names)
    ordered = {name: tuple(by_number[number] for number in sorted(by_number)) for name, by_number in grouped.items()}
    count = len(channel_names)
    return [InputCase(name, paths, _ending(paths[0]), wanted=count) for name, paths in sorted(ordered.items())]


def _in_colour(files: list[Path]) -> list[InputCase]:
    """A case per picture, where no channel has a file of its own; ``CASE_0000.png`` alone is in colour (nnU-Net)."""
    names = [path.stem.removesuffix(_FIRST_CHANNEL) for path in files]
    if len(set(names)) < len(names) or not all(_ending(path).lower() == _PICTURE for path in files):
        return []
    if any(f"{name}_0001" in names for name in names):
        return []
    cases = zip(names, files, strict=True)
    return [InputCase(name, (path,), _ending(path), wanted=_IN_COLOUR) for name, path in cases]


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return (i, n) for ``i/n`` with 1 <= i <= n; (1, 1) for None.

    Raises:
        UsageError: ``E-ARG-04`` for anything else.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", "1/1" if text is None else text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError("E-ARG-04", found=str(text))
    return int(match[1]), int(match[2])


def own_share(cases: list[InputCase], shard: tuple[int, int]) -> list[InputCase]:
    """Every n-th case, beginning with the i-th."""
    return cases[shard[0] - 1 :: shard[1]]


def refuse_overwriting(images: Path, output: Path) -> None:
    """Refuse an output folder that cannot be one, or that is the folder of the images themselves.

    Raises:
        DataError: ``E-OUT-02``.
    """
    folder = images.parent if images.is_file() else images
    if output.resolve() == folder.resolve() or output.is_file():
        what = "a file" if output.is_file() else "the folder of the images"
        raise DataError("E-OUT-02", output=output, found=f"-o {output}, which is {what}")


def _ending(path: Path) -> str:
    known = next((ending for ending in _ENDINGS if path.name.lower().endswith(ending)), "")
    return path.name[len(path.name) - len(known) :] if known else ""


def _siblings(source: Path) -> list[Path]:
    ending = _ending(source)
    match = CHANNEL_NAME.match(source.name.removesuffix(ending))
    if match is None:
        return [source]
    return sorted(source.parent.glob(f"{glob.escape(match['case'])}_[0-9][0-9][0-9][0-9]{ending}"))


def _group(files: list[Path], *, single: bool) -> dict[str, dict[int, Path]]:
    stems = {path: path.name.removesuffix(_ending(path)) for path in files}
    numbered = any(stem.endswith("_0000") for stem in stems.values())
    grouped: dict[str, dict[int, Path]] = {}
    for path, stem in stems.items():
        match = CHANNEL_NAME.match(stem) if numbered or not single else None
        # A channel that no model has marks a name without a number where numbers are needed.
        missing = 0 if single else -1
        name, number = (match["case"], int(match["channel"])) if match else (stem, missing)
        earlier = grouped.setdefault(name, {}).setdefault(number, path)
        if earlier != path:
            raise DataError("E-INPUT-02", case=name, found=f"{earlier.name}, {path.name} in {path.parent}")
    return grouped


def _check_channels(grouped: dict[str, dict[int, Path]], channel_names: tuple[str, ...]) -> None:
    expected = list(range(len(channel_names)))
    offenders = {name: by_number for name, by_number in grouped.items() if sorted(by_number) != expected}
    if offenders:
        found = shortened((_described(name, by_number) for name, by_number in sorted(offenders.items())), "; ")
        found = f"{len(offenders)} of {len(grouped)} cases: {found}"
        raise DataError("E-CHAN-04", number=len(expected), names=", ".join(channel_names), found=found)


def _described(name: str, by_number: dict[int, Path]) -> str:
    if -1 in by_number:
        return f"{by_number[-1].name} has no channel number"
    return f"{name} has {' and '.join(f'_{number:04d}' for number in sorted(by_number))}"


def _nothing(source: Path) -> DataError:
    found = f"the file {source}" if source.is_file() else f"no file or folder {source}"
    if source.is_dir():
        names = sorted(path.name for path in source.iterdir())
        found = f"{source} with {shortened(names) or 'nothing in it'}"
    return DataError("E-INPUT-01", writable=", ".join(_ENDINGS), found=found)


def _dicom_cases(source: Path, channels: int) -> list[InputCase]:
    """Return one case per series, sorted by name; none where there are no DICOM files.

    A folder gives the series in it, else those in the folders directly below it; a file gives the series that it
    belongs to. A case is called after the folder of its series, with the series number where a folder holds several.

    Raises:
        DataError: ``E-CHAN-07`` when the model takes several channels, ``E-INPUT-02`` one name twice.
    """
    if source.is_file():
        folders = {source.parent: _dicom_files(source.parent.iterdir())} if _looks_like_dicom(source) else {}
    else:
        folders = _by_folder(source)
    cases = [case for folder, files in folders.items() for case in _series_cases(folder, files)]
    if source.is_file():
        cases = [case for case in cases if source in case.channels]
    if cases and channels > 1:
        found = f"{len(cases)} series in {source}"
        raise DataError("E-CHAN-07", channels=channels, channels2=channels - 1, found=found)
    twice = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if twice:
        places = sorted({str(case.channels[0].parent) for case in cases if case.name == twice[0]})
        raise DataError("E-INPUT-02", case=twice[0], found=f"series in {', '.join(places)}")
    return sorted(cases, key=lambda case: case.name)


def _by_folder(source: Path) -> dict[Path, list[Path]]:
    """The DICOM files of a folder, or those of the folders directly below it."""
    if not source.is_dir():
        return {}
    if own := _dicom_files(source.iterdir()):
        return {source: own}
    below = sorted(entry for entry in source.iterdir() if entry.is_dir() and entry.name[0] != ".")
    return {folder: files for folder in below if (files := _dicom_files(folder.iterdir()))}


def _dicom_files(entries: Iterable[Path]) -> list[Path]:
    return sorted(entry for entry in entries if _looks_like_dicom(entry))


def _looks_like_dicom(path: Path) -> bool:
    if not path.is_file() or path.name[0] == "." or path.name.upper() == _DIRECTORY:
        return False
    # A file that is called DICOM and is none must fail by name, not vanish from its series.
    return path.name.lower().endswith(DICOM_ENDINGS) or is_dicom(path)


def _series_cases(folder: Path, files: list[Path]) -> list[InputCase]:
    name = _UNSAFE.sub("_", folder.resolve().name) or "series"
    try:
        series = find_series(files)
    except DataError:
        # Reading will find the same fault, and then this folder is skipped and the others go on.
        return [InputCase(name, tuple(files), _LABEL_ENDING, dicom=True)]
    numbers = Counter(one.number for one in series)
    cases = []
    for position, one in enumerate(series, start=1):
        unique = f"{one.number:03d}" if numbers[one.number] == 1 else f"{position:03d}_{one.number:03d}"
        cases.append(InputCase(name if len(series) == 1 else f"{name}_{unique}", one.paths, _LABEL_ENDING, dicom=True))
    return cases
