"""DICOM series as cases: a folder of series, a folder of folders with series, or a file of one series."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from samora_pipeline.errors import DataError
from samora_pipeline.imaging.dicom import DICOM_ENDINGS, find_series, is_dicom
from samora_pipeline.inference.case import InputCase

LABEL_ENDING = ".nii.gz"
"""label maps of DICOM series are NIfTI files on the grid of the series"""

_DIRECTORY = "DICOMDIR"
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def dicom_cases(source: Path, channels: int) -> list[InputCase]:
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
        raise DataError(
            "E-CHAN-07", channels=channels, channels2=channels - 1, found=f"{len(cases)} series in {source}"
        )
    twice = [name for name, count in Counter(case.name for case in cases).items() if count > 1]
    if twice:
        raise DataError(
            "E-INPUT-02",
            what=f'two series stand for the case "{twice[0]}"',
            found=", ".join(sorted({str(case.channels[0].parent) for case in cases if case.name == twice[0]})),
            expected="one series per name",
            fix="predict the folders one by one, each into an output folder of its own",
        )
    return sorted(cases, key=lambda case: case.name)


def _by_folder(source: Path) -> dict[Path, list[Path]]:
    """The DICOM files of a folder, or those of the folders directly below it."""
    if not source.is_dir():
        return {}
    own = _dicom_files(source.iterdir())
    if own:
        return {source: own}
    below = sorted(entry for entry in source.iterdir() if entry.is_dir() and entry.name[0] != ".")
    found = {folder: _dicom_files(folder.iterdir()) for folder in below}
    return {folder: files for folder, files in found.items() if files}


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
        # Reading will find the same fault, and then this folder is set aside and the others go on.
        return [InputCase(name, tuple(files), LABEL_ENDING, dicom=True)]
    if len(series) == 1:
        return [InputCase(name, series[0].paths, LABEL_ENDING, dicom=True)]
    numbers = Counter(one.number for one in series)
    return [
        InputCase(
            f"{name}_{one.number:03d}" if numbers[one.number] == 1 else f"{name}_{position:03d}_{one.number:03d}",
            one.paths,
            LABEL_ENDING,
            dicom=True,
        )
        for position, one in enumerate(series, start=1)
    ]
