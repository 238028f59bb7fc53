"""Scans without labels: any folder of volumes, DICOM series or pictures, as a dataset of its own or added to one."""

import argparse
import fnmatch
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dataset_conversion.converter import Converter
from dataset_conversion.scans import load_files, split_channels
from dataset_conversion.survey import (
    CaseSource,
    ConversionReport,
    Identity,
    LoadedCase,
    Survey,
    counted,
    group_channels,
    stem,
)
from dataset_conversion.writing import join_survey
from samora_pipeline.contracts.dataset import SamoraJson
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.imaging.dicom import find_series, is_dicom, read_series
from samora_pipeline.imaging.pictures import is_picture, read_picture, read_slices, series_of

_VOLUMES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
# Fewer different values than this are labels, not grey values.
_FEWEST_VALUES = 9
_SAMPLED = 4


class Unlabeled(Converter):
    """Cases are named by their path; all scans go to imagesUn."""

    name = "Unlabeled"
    summary = "Scans without labels in any folders: NIfTI, NRRD, MetaImage, DICOM series, PNG and TIFF slices."
    numbering = "the first free id from 100; with --add-to the dataset's own"
    terms = "your own"
    tree = (
        "any folders:            -d Unlabeled -i FOLDER --name MyScans --channel CT\n"
        "  A/scan.nii.gz         becomes A_scan (.nii, .nrrd, .mha, .mhd as well)\n"
        "  B/*.dcm               each DICOM series becomes a case, whatever its files are called\n"
        "  C/slice_001.png, ...  pictures with running numbers are the slices of a case (.tif as well)\n"
        "added to a dataset:     -d Unlabeled -i FOLDER --add-to DATASET"
    )
    remarks = (
        "Label maps among the scans are skipped where they are recognized; --match says which files to take.",
        "A series with missing, repeated or shifted slices is skipped with their names.",
        "Nothing of a DICOM header is kept but the grid; names of patients never reach the dataset unless folders or "
        "files are named after them.",
    )

    def add_options(self, parser: argparse._ActionsContainer) -> None:
        """Where the scans go and which files they are."""
        parser.add_argument("--name", default="", help="what the dataset is called: letters and digits")
        parser.add_argument("--add-to", metavar="DATASET", default="", help="add the scans to imagesUn of this dataset")
        parser.add_argument("--channel", nargs="+", metavar="NAME", default=[], help="what the scans are: CT, MR, ...")
        parser.add_argument("--match", metavar="PATTERN", default="*", help='only files of such names: "*_ct.nii.gz"')
        parser.add_argument("--prefix", metavar="TEXT", default="", help="text before the name of each case")
        parser.add_argument("--single", action="store_true", help="each picture is a case of its own, not a slice")

    def joins(self, options: argparse.Namespace) -> str:
        """The dataset of ``--add-to``, which has its number already."""
        if options.add_to and getattr(options, "id", None) is not None:
            raise UsageError("E-ARG-11", options=options, found=f"--id {options.id} --add-to {options.add_to}")
        return str(options.add_to)

    def identify(self, token: str, source: Path, options: argparse.Namespace) -> Identity:
        """The name given with ``--name``."""
        fix = "samora_convert -d Unlabeled -i FOLDER --name MyScans  (or --add-to DATASET)"
        return Identity.named(options.name, expected="letters, digits, - and _, or a dataset to add to", fix=fix)

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """List the scans; of DICOM files the headers are read, to tell series apart."""
        folders = [source, *sorted(path for path in source.rglob("*") if path.is_dir())] if source.is_dir() else []
        found = _Found(source, options)
        for folder in folders:
            if not any(part.startswith(".") or part == "__MACOSX" for part in folder.relative_to(source).parts):
                found.add(folder)
        if not found.cases:
            raise self.missing_source(source, "no scan" if source.is_dir() else f"no folder {source}")
        return self.describe(
            sorted(found.cases, key=lambda case: case.name),
            SamoraJson(origin=f"scans without labels, {source.resolve().name}", spacing_known=not found.pictures),
            found.notes(),
            about={"name": options.name},
            channels=_channels(options, found),
            labels={"background": 0, "foreground": 1},
        )

    def convert(self, source: Path, target: Path, options: argparse.Namespace) -> ConversionReport:
        """Write a dataset of its own, or add to the one that ``target`` is."""
        if not options.add_to:
            return super().convert(source, target, options)
        overwrite, workers = getattr(options, "overwrite", False), getattr(options, "workers", 1)
        survey = self.survey(source, options)
        return join_survey(survey, target, self.name, str(source), overwrite=overwrite, workers=workers)


class _Found:
    """What a walk over the folders has found so far."""

    def __init__(self, source: Path, options: argparse.Namespace) -> None:
        self.source = source
        self.options = options
        self.cases: list[CaseSource] = []
        self.modalities: set[str] = set()
        self.pictures = 0
        self.others: list[str] = []

    def add(self, folder: Path) -> None:
        """Sort the files of one folder into cases."""
        files = [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]
        files = [path for path in files if fnmatch.fnmatch(path.name, self.options.match)]
        volumes = [path for path in files if path.name.lower().endswith(_VOLUMES)]
        pictures = [path for path in files if is_picture(path)]
        self._add_volumes(volumes)
        self._add_pictures(pictures)
        self._add_series(folder, sorted(set(files) - set(volumes) - set(pictures)))

    def notes(self) -> tuple[str, ...]:
        """Sentences about what was found beside plain volumes."""
        pictures = f"{self.pictures} cases are pictures, which state no spacing: distances come in pixels"
        # The voxels of .mhd files lie beside them.
        strange = [name for name in self.others if not name.lower().endswith((".raw", ".zraw"))]
        return (*([pictures] if self.pictures else []), *counted(strange, "files are no scans and were left out"))

    def _add_volumes(self, paths: Sequence[Path]) -> None:
        if len(self.options.channel) > 1:
            grouped = group_channels(paths, _VOLUMES)
        else:
            plain = [stem(path, _VOLUMES) for path in paths]
            numbered = all(name.endswith("_0000") for name in plain)
            names = [name.removesuffix("_0000") if numbered else name for name in plain]
            grouped = {name: (path,) for name, path in zip(names, paths, strict=True)}
        for name, channels in grouped.items():
            self._case(channels[0].parent, name, partial(load_files, channels, None))

    def _add_pictures(self, paths: Sequence[Path]) -> None:
        stacks: dict[str, list[Path]] = {}
        for path in paths:
            name, number = series_of(path)
            alone = self.options.single or number is None
            stacks.setdefault(path.stem if alone else name.rstrip("_-. "), []).append(path)
        self.pictures += len(stacks)
        for name, members in stacks.items():
            self._case(members[0].parent, name, partial(_load_pictures, tuple(members)))

    def _add_series(self, folder: Path, paths: Sequence[Path]) -> None:
        files = [path for path in paths if path.name != "DICOMDIR" and is_dicom(path)]
        self.others += [path.name for path in paths if path.name != "DICOMDIR" and path not in files]
        series = find_series(files)
        for number, one in enumerate(series, start=1):
            self.modalities.add(one.modality)
            self._case(folder, f"series{number}" if series[1:] else "", partial(_load_series, one.paths))

    def _case(self, folder: Path, name: str, read: Callable[[], LoadedCase]) -> None:
        parts = [*folder.relative_to(self.source).parts, *([name] if name else [])]
        joined = "_".join(parts) or self.source.resolve().name
        name = self.options.prefix + re.sub(r"[^\w.-]+", "_", joined)
        self.cases.append(CaseSource(name, "Un", partial(_load, read)))


def _channels(options: argparse.Namespace, found: _Found) -> tuple[str, ...]:
    """The names asked for, else the one modality of DICOM files; none where the dataset that is added to says it."""
    if options.channel:
        return tuple(options.channel)
    if found.modalities and len(found.modalities) == 1 and found.modalities <= {"CT", "MR"}:
        return tuple(found.modalities)
    if options.add_to:
        return ()
    raise UsageError("E-ARG-10", found=f"modalities {', '.join(sorted(found.modalities)) or 'that no file states'}")


def _load_pictures(paths: tuple[Path, ...]) -> LoadedCase:
    return LoadedCase(split_channels(read_slices(paths) if paths[1:] else read_picture(paths[0])))


def _load_series(paths: tuple[Path, ...]) -> LoadedCase:
    return LoadedCase(split_channels(read_series(paths)))


def _load(read: Callable[[], LoadedCase]) -> LoadedCase:
    """The case that ``read`` reads.

    Raises:
        DataError: ``E-IMG-06`` when one of its volumes has so few values that it is a label map.
    """
    loaded = read()
    for volume in loaded.channels:
        sample = volume.array[::_SAMPLED, ::_SAMPLED, ::_SAMPLED]
        if len(np.unique(sample)) < _FEWEST_VALUES and len(values := np.unique(volume.array)) < _FEWEST_VALUES:
            shown = ", ".join(f"{value:g}" for value in values)
            raise DataError("E-IMG-06", volume=volume, found=f"only the values {shown} in {volume.path}")
    return loaded
