"""Scans without labels: any folder of volumes, DICOM series or pictures, as a dataset of its own or added to one."""

import argparse
import fnmatch
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.joining import join_survey
from dataset_conversion.scans import load_files, refuse_label_maps, split_channels
from dataset_conversion.survey import (
    CaseSource,
    ConversionReport,
    Identity,
    LoadedCase,
    Survey,
    counted,
    faulty_load,
    files_of,
)
from samora_pipeline.contracts.dataset import SamoraJson
from samora_pipeline.errors import UsageError
from samora_pipeline.imaging.dicom import read_series
from samora_pipeline.imaging.inputs import (
    FIRST_CHANNEL,
    FolderContent,
    case_name,
    ending_of,
    group_channels,
    series_in,
    walk,
)
from samora_pipeline.imaging.pictures import read_picture, read_slices, series_of
from samora_pipeline.parallel import SERIAL


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
        found = _Found(source, options)
        for content in walk(source):
            found.add(content)
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
        overwrite, engine = getattr(options, "overwrite", False), getattr(options, "engine", SERIAL)
        survey = self.survey(source, options)
        return join_survey(survey, target, self.name, str(source), overwrite=overwrite, engine=engine)


class _Found:
    """What a walk over the folders has found so far."""

    def __init__(self, source: Path, options: argparse.Namespace) -> None:
        self.source = source
        self.options = options
        self.cases: list[CaseSource] = []
        self.modalities: set[str] = set()
        self.pictures = 0
        self.others: list[str] = []

    def add(self, content: FolderContent) -> None:
        """Sort the files of one folder into cases."""
        if content.fault:
            self._case(case_name(self.source, content.folder), faulty_load(content.fault))
        matching = tuple(path for path in content.files if fnmatch.fnmatch(path.name, self.options.match))
        content = replace(content, files=matching)
        self._add_volumes(content)
        self._add_pictures(content)
        self.others += [path.name for path in content.others]
        for series in series_in(self.source, content):
            if series.modality:
                self.modalities.add(series.modality)
            self._case(series.name, faulty_load(series.fault) if series.fault else partial(_load_series, series.paths))

    def notes(self) -> tuple[str, ...]:
        """Sentences about what was found beside plain volumes."""
        pictures = f"{self.pictures} cases are pictures, which state no spacing: distances come in pixels"
        # The voxels of .mhd files lie beside them.
        strange = [name for name in self.others if not name.lower().endswith((".raw", ".zraw", ".raw.gz", "dicomdir"))]
        return (*([pictures] if self.pictures else []), *counted(strange, "files are no scans and were left out"))

    def _add_volumes(self, content: FolderContent) -> None:
        stems = {path: path.name.removesuffix(ending_of(path)) for path in content.volumes}
        several = len(self.options.channel) > 1
        if not several and all(name.endswith(FIRST_CHANNEL) for name in stems.values()):
            stems = {path: name.removesuffix(FIRST_CHANNEL) for path, name in stems.items()}
        for own, channels in group_channels(stems, numbered=several).items():
            paths, fault = files_of(own, channels)
            name = case_name(self.source, content.folder, own)
            self._case(name, faulty_load(fault) if fault else partial(load_files, paths, None))

    def _add_pictures(self, content: FolderContent) -> None:
        stacks: dict[str, list[Path]] = {}
        for path in content.pictures:
            name, number = series_of(path)
            alone = self.options.single or number is None
            stacks.setdefault(path.stem if alone else name.rstrip("_-. "), []).append(path)
        self.pictures += len(stacks)
        for name, members in stacks.items():
            load = partial(_load_pictures, tuple(members))
            # Pictures that are called by numbers alone are named by their folder.
            self._case(case_name(self.source, content.folder, name), load)

    def _case(self, name: str, read: Callable[[], LoadedCase]) -> None:
        name = self.options.prefix + re.sub(r"[^\w.-]+", "_", name)
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
        DataError: ``E-IMG-06`` when one of its volumes is a label map.
    """
    loaded = read()
    refuse_label_maps(loaded, "leave such files out: --match PATTERN")
    return loaded
