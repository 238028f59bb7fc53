"""Your own scans: any folder of images and any folder of label maps, matched by file name."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dataset_conversion.converter import Converter
from dataset_conversion.file_pairs import Named, Pairs, pair_folders, split_one_folder
from dataset_conversion.scans import MAP_FORM, LabelMap, load_files, read_label_map, read_scan, refuse_label_maps
from dataset_conversion.survey import (
    CaseSource,
    Identity,
    LoadedCase,
    Survey,
    faulty_load,
    files_of,
    shortened,
)
from samora_pipeline.contracts.dataset import SamoraJson
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import stem
from samora_pipeline.imaging.inputs import (
    Channels,
    FolderContent,
    SeriesFiles,
    case_name,
    ending_of,
    series_in,
    walk,
)
from samora_pipeline.imaging.pictures import STACK_ENDINGS, is_picture
from samora_pipeline.imaging.volume import label_array

# nnU-Net's name for intensities without units: each scan is scaled by itself, which serves every kind of scan.
_UNNAMED = "zscore"
_COLOURS = ("R", "G", "B")


class Folder(Converter):
    """Any format that the library reads; images without a label map become unlabelled scans."""

    name = "Folder"
    summary = "Your own scans: any folder of images and any folder of label maps, matched by file name."
    numbering = "the first free id from 100"
    terms = "your own"
    tree = (
        "any folders:               samora_convert IMAGES LABELS --name MyData --label-names liver tumour\n"
        "  IMAGES/CASE.nii.gz       image; with several channels CASE_0000.nii.gz, CASE_0001.nii.gz\n"
        "  IMAGES/CASE/*.dcm        or a DICOM series; .nii, .nrrd, .mha, .png, .tif, .jpg, at any depth\n"
        "  LABELS/CASE.nii.gz       label map of the same name, or CASE_mask, CASE-seg, CASE_label, CASE.seg\n"
        "one folder with both:      samora_convert FOLDER --name MyData; label maps have such a suffix"
    )
    needs_source = False

    def add_options(self, parser: argparse._ActionsContainer) -> None:
        """Folders, names and the label map."""
        parser.add_argument("--name", default="", help="what the dataset is called: letters and digits")
        parser.add_argument("--images", metavar="DIR", default="", help="folder of images (default SOURCE/images)")
        parser.add_argument("--labels", metavar="DIR", default="", help="folder of label maps (default SOURCE/labels)")
        parser.add_argument("--label-map", metavar="FILE", default="", help=f"values of each label, JSON: {MAP_FORM}")
        names = "names of the label values, in ascending order: liver tumour (default: label_1, label_2, ...)"
        parser.add_argument("--label-names", nargs="+", metavar="NAME", default=[], help=names)
        channels = "what the channels are, in order: CT, or T1 T2 (default: zscore)"
        parser.add_argument("--channel", nargs="+", metavar="NAME", default=[], help=channels)

    def identify(self, token: str, source: Path, options: argparse.Namespace) -> Identity:
        """The name given with ``--name``."""
        fix = "samora_convert IMAGES LABELS --name MyData"
        return Identity.named(options.name, expected="letters, digits, - and _", fix=fix)

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Match images and labels by name; without a map, read the label values that occur."""
        folder, beside = _places(options, source)
        series, pairs = self._pairs(folder, beside, bool(options.labels), len(options.channel))
        labels = pairs.labels
        files = {name: _files(name, channels, series) for name, channels in pairs.images.items()}
        images = {name: paths for name, (paths, _) in files.items()}
        pictures = _pictures_only(folder, images)
        if options.label_map:
            label_map = read_label_map(Path(options.label_map))
        else:
            label_map = _counted_map(labels, options.label_names)
        cases = tuple(
            CaseSource(
                name,
                "Tr" if name in labels else "Un",
                faulty_load(fault) if fault else partial(_load, paths, labels.get(name), label_map),
            )
            for name, (paths, fault) in files.items()
        )
        survey = self.describe(
            cases,
            SamoraJson(origin=f"folder {folder.resolve()}", spacing_known=not pictures),
            (*_suffixes(pairs), *_notes(options.channel, pictures, len(images) - len(labels) if labels else 0)),
            about={"name": options.name},
            channels=_channel_names(options.channel, images),
            labels=label_map.labels,
        )
        read = [folder, beside] if any(path.is_relative_to(beside) for path in labels.values()) else [folder]
        return replace(survey, origin=" and ".join(map(str, read)))

    def _pairs(self, folder: Path, labels: Path, asked: bool, channels: int) -> tuple[dict[Path, SeriesFiles], Pairs]:
        """DICOM series by their first file, and the files of each case."""
        contents = walk(folder, leave_out=[labels])
        if asked and not labels.is_dir():
            raise self.missing_source(labels, f"no folder {labels}")
        files, maps = _named(folder, contents), _named(labels, walk(labels))
        if not maps and not asked:
            files, maps = split_one_folder(files)
        series = {one.paths[0]: one for content in contents for one in series_in(folder, content)}
        numbered = True if channels > 1 else None
        pairs = pair_folders({**files, **{path: one.name for path, one in series.items()}}, maps, numbered)
        if not pairs.images:
            others = sorted({path.suffix or path.name for content in contents for path in content.others})
            found = f"no image file, but {shortened(others)}" if others else "no image file"
            raise self.missing_source(folder, found if folder.is_dir() else f"no folder {folder}")
        return series, pairs


def _places(options: argparse.Namespace, source: Path) -> tuple[Path, Path]:
    """The folders of images and of label maps; one folder that holds both stands for the two in it."""
    folder, labels = Path(options.images or source / "images"), Path(options.labels or source / "labels")
    inner = folder / "images", folder / "labels"
    if not options.labels and all(place.is_dir() for place in inner):
        return inner
    return folder, labels


def _named(home: Path, contents: Sequence[FolderContent]) -> Named:
    """Volumes and pictures with the names of their cases."""
    return {path: case_name(home, content.folder, stem(path)) for content in contents for path in content.images}


def _files(
    name: str, channels: Channels, series: Mapping[Path, SeriesFiles]
) -> tuple[tuple[Path, ...], DataError | None]:
    """The files of a case, and what is known to be wrong with them."""
    paths, fault = files_of(name, channels)
    own = series.get(paths[0])
    return (own.paths, own.fault) if own and fault is None else (paths, fault)


def _suffixes(pairs: Pairs) -> tuple[str, ...]:
    if not pairs.suffixes:
        return ()
    case, path = next(iter(pairs.labels.items()))
    return (f"label maps end with {' or '.join(pairs.suffixes)}: {path.name} is that of {case}",)


def _counted_map(labels: dict[str, Path], names: Sequence[str]) -> LabelMap:
    """Without a map: the values that occur, by name, or if they are 0, 1, 2, ...; damaged files are left for later.

    Raises:
        DataError: ``E-LABEL-09`` values that need names, or none at all; what is wrong with the label maps, where none
            of them can be used.
    """
    if not labels:
        return LabelMap.numbered(*(names or ("foreground",)))
    occurring: set[int] = set()
    faults = []
    for path in labels.values():
        try:
            occurring |= set(np.unique(label_array(read_scan(path, label=True))).tolist())
        except DataError as error:
            faults.append(error)
    if len(faults) == len(labels):
        first = faults[0]
        found = f"{first.found}; no label map of {len(labels)} can be used"
        raise DataError(first.code, first.what, found=found, expected=first.expected, fix=first.fix)
    foreground = sorted(occurring - {0})
    found = ", ".join(map(str, sorted(occurring)))
    if not foreground:
        fix = "samora_convert IMAGES --name MyData  takes the images as scans without labels"
        raise DataError("E-LABEL-09", "the label maps hold no label", found=found, expected="values from 1", fix=fix)
    if names and len(names) == len(set(names)) == len(foreground):
        return LabelMap({name: (value,) for name, value in zip(names, foreground, strict=True)})
    if names:
        expected = f"{len(names)} values beside 0, for {', '.join(names)}"
        raise DataError("E-LABEL-09", found=found, expected=expected, fix="--label-names with a name for each value")
    if len(foreground) == 1:
        return LabelMap({"foreground" if foreground != [1] else "label_1": (foreground[0],)})
    if foreground != list(range(1, len(foreground) + 1)):
        fix = f"--label-names {' '.join(f'label_{value}' for value in foreground)}, or other names"
        raise DataError("E-LABEL-09", found=found, expected="consecutive values from 0, or names", fix=fix)
    return LabelMap({f"label_{value}": (value,) for value in foreground})


def _pictures_only(folder: Path, images: dict[str, tuple[Path, ...]]) -> bool:
    """Whether the images are pictures that state no spacing; TIFF may, which reading shows.

    Raises:
        DataError: ``E-SRC-04`` some are pictures and some are volumes.
    """
    files = [path for paths in images.values() for path in paths]
    if len({is_picture(path) for path in files}) > 1:
        raise DataError("E-SRC-04", found=str(folder))
    return all(is_picture(path) and not path.name.lower().endswith(STACK_ENDINGS) for path in files)


def _channel_names(asked: list[str], images: dict[str, tuple[Path, ...]]) -> tuple[str, ...]:
    """The names asked for, else R, G, B for colour pictures, else one that claims nothing."""
    if asked:
        return tuple(asked)
    first = next(iter(images.values()))
    for path in (paths[0] for paths in images.values()) if is_picture(first[0]) else ():
        try:
            return _COLOURS if read_scan(path).array.ndim == 4 else (_UNNAMED,)
        except DataError:
            # A damaged picture is skipped later; the next one will do.
            continue
    # Of cases of several channels some may lack one: those are skipped.
    counts = Counter(len(paths) if ending_of(paths[0]) else 1 for paths in images.values())
    return (_UNNAMED,) * max(counts, key=lambda count: (counts[count], count))


def _notes(asked: list[str], pictures: bool, unlabelled: int) -> tuple[str, ...]:
    notes = [f"{unlabelled} images have no label map and went to imagesUn"] if unlabelled else []
    if pictures:
        notes.append("pictures state no spacing: distances will be in pixels, not in mm")
    elif not asked:
        notes.append(f'the channels "{_UNNAMED}" are scaled scan by scan; for CT in HU say --channel CT')
    return tuple(notes)


def _load(images: tuple[Path, ...], label: Path | None, label_map: LabelMap) -> LoadedCase:
    loaded = load_files(images, label, label_map)
    if label is None:
        refuse_label_maps(loaded, "name the folder of label maps too: samora_convert IMAGES LABELS --name MyData")
    return replace(loaded, unchanged=loaded.unchanged.intersection(images))
