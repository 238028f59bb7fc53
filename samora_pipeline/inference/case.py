"""Which files belong to which case: the names are settled for all cases before anything is read or written.

A case is a file per channel, a picture, or a DICOM series, found as ``imaging.inputs`` finds what is trained on.
"""

import glob
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from samora_pipeline.contracts.dataset import CHANNEL_NAME
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.imaging.dicom import is_dicom
from samora_pipeline.imaging.files import WRITABLE
from samora_pipeline.imaging.inputs import (
    FIRST_CHANNEL,
    IMAGE_ENDINGS,
    Channels,
    FolderContent,
    case_name,
    ending_of,
    fault_of_channels,
    fault_of_name,
    group_channels,
    repeated,
    series_in,
    walk,
)
from samora_pipeline.registry import shortened
from samora_pipeline.run_log import logger

_NIFTI = ".nii.gz"
"""the format of label maps for what has no such format of its own: DICOM series, TIFF"""
_PICTURE, _IN_COLOUR = ".png", 3
_LABEL_ENDINGS = {".mhd": ".mha", ".nhdr": ".nrrd", ".jpg": _PICTURE, ".jpeg": _PICTURE}
_LABEL_FOLDER = re.compile(r"labels(Tr|Ts|Va|Val)")
_RECORD = "run.json"
# The model takes other scans than these; where that is true of all, the command is mistaken and not a scan faulty.
_MISTAKEN = ("E-CHAN-04", "E-CHAN-07", "E-INPUT-02")


@dataclass(frozen=True)
class InputCase:
    """A case: its channels in order, and the ending of its label map.

    ``dicom``: ``channels`` are the files of one DICOM series, which hold one channel together. ``wanted`` is the number
    of channels that the model takes: a picture in colour holds three. ``fault``: what is known to be wrong with it.
    """

    name: str
    channels: tuple[Path, ...]
    ending: str
    dicom: bool = False
    wanted: int = 1
    fault: DataError | None = None


def find_cases(source: Path, channel_names: tuple[str, ...], leave_out: Collection[Path] = ()) -> list[InputCase]:
    """Return the cases of a folder and all below it, or the one case of a file, sorted by name.

    Files are named ``CASE_0000.nii.gz`` as in nnU-Net. A model with a single channel also takes plain names: then a
    name without a number is a case, and where no file of a folder is numbered ``_0000`` all its names are plain.
    ``leave_out`` are folders that are not looked into. Folders of earlier predictions and nnU-Net's folders of labels
    below the source are passed over, which is logged. A case that cannot be used carries its fault.

    Raises:
        DataError: ``E-INPUT-01`` nothing there; where no case can be used, ``E-INPUT-02`` one name twice, ``E-CHAN-04``
            channels that the model does not take (every offender is named), ``E-CHAN-07`` DICOM for a model with
            several channels.
    """
    wanted = len(channel_names)
    home = source if source.is_dir() else source.parent
    contents = _folders(source, leave_out) if source.is_dir() else [_around(source, wanted)]
    found = [case for content in contents for case in _cases_in(home, content, channel_names)]
    if source.is_file() and is_dicom(source) and not ending_of(source):
        found = [case for case in found if source in case.channels]
    cases = [replace(case, fault=case.fault or fault_of_name(case.name)) for case in _distinct(found)]
    if not cases:
        raise _nothing(source)
    _require_any(cases, channel_names, source)
    return cases


def _folders(source: Path, leave_out: Collection[Path]) -> list[FolderContent]:
    contents = walk(source, leave_out)
    passed_over = [
        content.folder
        for content in contents
        if content.folder != source
        and (_LABEL_FOLDER.fullmatch(content.folder.name) or (content.folder / _RECORD).is_file())
    ]
    if passed_over:
        logger.warning("passed over, labels or earlier predictions: %s", shortened(map(str, passed_over)))
    return [content for content in contents if content.folder not in passed_over]


def _around(source: Path, wanted: int) -> FolderContent:
    """The file by itself, with its other channels or with the DICOM files beside it."""
    if not source.is_file():
        return FolderContent(source.parent, ())
    ending = ending_of(source)
    match = CHANNEL_NAME.match(source.name.removesuffix(ending))
    files = [source]
    if not ending and is_dicom(source):
        files = [path for path in sorted(source.parent.iterdir()) if path.is_file() and is_dicom(path)]
    elif wanted > 1 and match:
        files = sorted(source.parent.glob(f"{glob.escape(match['case'])}_[0-9][0-9][0-9][0-9]{ending}"))
    return FolderContent(source.parent, tuple(files))


def _cases_in(home: Path, content: FolderContent, channel_names: tuple[str, ...]) -> Iterator[InputCase]:
    """The cases of one folder, with what is wrong with each."""
    wanted = len(channel_names)
    if content.fault:
        yield InputCase(case_name(home, content.folder), (content.folder,), _NIFTI, fault=content.fault)
    pictures = _in_colour(home, content) if wanted == _IN_COLOUR else []
    yield from pictures
    files = content.volumes if pictures else content.images
    stems = {path: path.name.removesuffix(ending_of(path)) for path in files}
    for own, channels in group_channels(stems, numbered=None if wanted == 1 else True).items():
        paths = tuple(path for number in sorted(channels) for path in channels[number])
        fault = fault_of_channels(own, channels)
        if (fault is None or fault.code == "E-CHAN-01") and sorted(channels) != list(range(wanted)):
            fault = _wrong_channels(channel_names, _described(own, channels))
        yield InputCase(
            case_name(home, content.folder, own), paths, _label_ending(paths[0]), wanted=wanted, fault=fault
        )
    for series in series_in(home, content):
        several = DataError("E-CHAN-07", channels=wanted, channels2=wanted - 1, found=f"a series in {content.folder}")
        fault = series.fault or (several if wanted > 1 else None)
        yield InputCase(series.name, series.paths, _NIFTI, dicom=True, fault=fault)


def _in_colour(home: Path, content: FolderContent) -> list[InputCase]:
    """A case per picture, where no channel has a file of its own; ``CASE_0000.png`` alone is in colour (nnU-Net)."""
    names = [path.stem.removesuffix(FIRST_CHANNEL) for path in content.pictures]
    if repeated(names) or any(f"{name}_0001" in names for name in names):
        return []
    return [
        InputCase(case_name(home, content.folder, name), (path,), _label_ending(path), wanted=_IN_COLOUR)
        for name, path in zip(names, content.pictures, strict=True)
    ]


def _distinct(found: list[InputCase]) -> list[InputCase]:
    """The cases by name; those that share one become a single one, which cannot be used."""
    by_name: dict[str, list[InputCase]] = {}
    for case in found:
        by_name.setdefault(case.name, []).append(case)
    cases = []
    for name, same in sorted(by_name.items()):
        if same[1:]:
            paths = tuple(path for case in same for path in case.channels)
            places = {str(case.channels[0].parent if case.dicom else case.channels[0]) for case in same}
            fault = DataError("E-INPUT-02", case=name, found=shortened(sorted(places)))
            cases.append(replace(same[0], channels=paths, fault=fault))
        else:
            cases.append(same[0])
    return cases


def _require_any(cases: list[InputCase], channel_names: tuple[str, ...], source: Path) -> None:
    """Refuse input of which nothing fits the model, instead of failing case by case."""
    faults = [case.fault for case in cases if case.fault is not None]
    if len(faults) < len(cases) or {fault.code for fault in faults} - {*_MISTAKEN} or len({f.code for f in faults}) > 1:
        return
    (first, *others), count = faults, len(channel_names)
    if first.code == "E-CHAN-04":
        told = shortened((fault.found for fault in faults), "; ")
        raise _wrong_channels(channel_names, f"{len(faults)} of {len(cases)} cases: {told}")
    if first.code == "E-CHAN-07":
        found = f"{len(faults)} series in {source}"
        raise DataError("E-CHAN-07", channels=count, channels2=count - 1, found=found)
    if not others:
        raise first


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
    folder, given = images.parent if images.is_file() else images, output
    what = ""
    if output.is_file():
        what = "a file"
    elif output.resolve() == folder.resolve():
        what = "the folder of the images"
    elif (ending := ending_of(output)) and not output.is_dir():
        what, output = "the name of an image", output.with_name(output.name.removesuffix(ending))
    if what:
        raise DataError("E-OUT-02", output=output, found=f"-o {given}, which is {what}")


def _label_ending(path: Path) -> str:
    """The ending of the label map of an image: that of the image, where label maps are written in its format."""
    own = ending_of(path)
    if own.lower() in (*WRITABLE, _PICTURE):
        return own
    return _LABEL_ENDINGS.get(own.lower(), _NIFTI)


def _wrong_channels(channel_names: tuple[str, ...], found: str) -> DataError:
    return DataError("E-CHAN-04", number=len(channel_names), names=", ".join(channel_names), found=found)


def _described(name: str, channels: Channels) -> str:
    first = next(iter(channels.values()))[0]
    if len(channels) == 1 and first.name.removesuffix(ending_of(first)) == name:
        return f"{first.name} has no channel number"
    return f"{name} has {' and '.join(f'_{number:04d}' for number in sorted(channels))}"


def _nothing(source: Path) -> DataError:
    found = f"the file {source}" if source.is_file() else f"no file or folder {source}"
    if source.is_dir():
        names = sorted(path.name for path in source.iterdir())
        found = f"{source} with {shortened(names) or 'nothing in it'}, and none in the folders below it"
    return DataError("E-INPUT-01", readable=", ".join(IMAGE_ENDINGS), found=found)
