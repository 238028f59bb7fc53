"""Which files belong to which case: the names are settled for all cases before anything is read or written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from samora_pipeline.contracts.dataset import CHANNEL_NAME
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.imaging.files import WRITABLE
from samora_pipeline.inference.case import InputCase
from samora_pipeline.inference.dicom_cases import dicom_cases

_SHOWN = 10


def find_cases(source: Path, channel_names: tuple[str, ...]) -> list[InputCase]:
    """Return the cases of a folder, or the one case of a file, sorted by name.

    Files are named ``CASE_0000.nii.gz`` as in nnU-Net. A model with a single channel also takes plain names: then a
    name without a number is a case, and where no file is numbered ``_0000`` all names are plain.

    Where there are no such files, DICOM series are looked for (see ``dicom_cases``).

    Raises:
        DataError: ``E-INPUT-01`` nothing there, ``E-INPUT-02`` one name twice, ``E-CHAN-04`` channels that the model
            does not take (every offender is named), ``E-CHAN-07`` DICOM for a model with several channels.
    """
    files = [source] if source.is_file() and _ending(source) else _images(source)
    if not files and (series := dicom_cases(source, len(channel_names))):
        return series
    endings = {path: _ending(path) for path in files}
    if not files:
        raise _nothing(source)
    if source.is_file() and len(channel_names) > 1:
        files = _siblings(source, endings[source])
        endings = dict.fromkeys(files, endings[source])
    grouped = _group(files, endings, single=len(channel_names) == 1)
    _check_channels(grouped, channel_names)
    cases = []
    for name, by_number in sorted(grouped.items()):
        channels = tuple(by_number[number] for number in sorted(by_number))
        cases.append(InputCase(name, channels, endings[channels[0]]))
    return cases


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
        raise DataError(
            "E-OUT-02",
            output=output,
            found=f"-o {output}, which is {('a file' if output.is_file() else 'the folder of the images')}",
        )


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and _ending(path) and path.name[0] != ".")


def _ending(path: Path) -> str:
    known = next((ending for ending in WRITABLE if path.name.lower().endswith(ending)), "")
    return path.name[len(path.name) - len(known) :] if known else ""


def _siblings(source: Path, ending: str) -> list[Path]:
    match = CHANNEL_NAME.match(source.name.removesuffix(ending))
    if match is None:
        return [source]
    return sorted(source.parent.glob(f"{_literal(match['case'])}_[0-9][0-9][0-9][0-9]{ending}"))


def _literal(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _group(files: list[Path], endings: dict[Path, str], *, single: bool) -> dict[str, dict[int, Path]]:
    stems = {path: path.name.removesuffix(endings[path]) for path in files}
    numbered = any(stem.endswith("_0000") for stem in stems.values())
    grouped: dict[str, dict[int, Path]] = {}
    for path, stem in stems.items():
        match = CHANNEL_NAME.match(stem) if numbered or not single else None
        # A channel that no model has marks a name without a number where numbers are needed.
        missing = 0 if single else -1
        name, number = (match["case"], int(match["channel"])) if match else (stem, missing)
        earlier = grouped.setdefault(name, {}).setdefault(number, path)
        if earlier != path:
            raise DataError(
                "E-INPUT-02",
                what=f'two files stand for the case "{name}"',
                found=f"{earlier.name}, {path.name}",
                expected="one file per case and channel",
                fix=f"remove one of them from {path.parent}",
            )
    return grouped


def _check_channels(grouped: dict[str, dict[int, Path]], channel_names: tuple[str, ...]) -> None:
    expected = list(range(len(channel_names)))
    offenders = {name: by_number for name, by_number in grouped.items() if sorted(by_number) != expected}
    if not offenders:
        return
    several = len(channel_names) > 1
    named = ", ".join(f"{index}: {name}" for index, name in enumerate(channel_names))
    raise DataError(
        "E-CHAN-04",
        what=f"{len(offenders)} of {len(grouped)} cases have other channels than the model takes",
        found="; ".join((_described(name, by_number) for name, by_number in sorted(offenders.items()))),
        expected=f"{len(channel_names)} ({named}), as CASE_0000" + (f" to CASE_{expected[-1]:04d}" if several else ""),
        fix="add the missing files" if several else "keep only the _0000 files in the folder",
    )


def _described(name: str, by_number: dict[int, Path]) -> str:
    if -1 in by_number:
        return f"{by_number[-1].name} has no channel number"
    return f"{name} has {' and '.join(f'_{number:04d}' for number in sorted(by_number))}"


def _nothing(source: Path) -> DataError:
    if source.is_file():
        found = f"the file {source}"
    elif source.is_dir():
        found = f"{source} with {_listing(path.name for path in source.iterdir())}"
    else:
        found = f"no file or folder {source}"
    return DataError("E-INPUT-01", writable=", ".join(WRITABLE), found=found)


def _listing(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return (", ".join(ordered[:_SHOWN]) or "nothing in it") + more
