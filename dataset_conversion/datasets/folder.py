"""Your own scans: any folder of images and any folder of label maps, matched by file name."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from dataset_conversion.converter import Converter
from dataset_conversion.file_pairs import Pairs, pair_folders, split_one_folder
from dataset_conversion.scans import MAP_FORM, LabelMap, load_files, read_label_map, read_scan
from dataset_conversion.survey import CaseSource, Identity, LoadedCase, Survey, list_files
from samora_pipeline.contracts.dataset import SamoraJson
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.volume import label_array

_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png")
# nnU-Net's name for intensities without units: each scan is scaled by itself, which serves every kind of scan.
_UNNAMED = "zscore"
_COLOURS = ("R", "G", "B")


class Folder(Converter):
    """NIfTI, NRRD, MetaImage or PNG; images without a label map become unlabelled scans."""

    name = "Folder"
    summary = "Your own scans: any folder of images and any folder of label maps, matched by file name."
    numbering = "the first free id from 100"
    terms = "your own"
    tree = (
        "any folders:               samora_convert IMAGES LABELS --name MyData --label-names liver tumour\n"
        "  IMAGES/CASE.nii.gz       image; with several channels CASE_0000.nii.gz, CASE_0001.nii.gz\n"
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
        folder = Path(options.images or source / "images")
        pairs = self._pairs(folder, Path(options.labels or source / "labels"), bool(options.labels))
        images, labels = pairs.images, pairs.labels
        pictures = _pictures_only(folder, images)
        if options.label_map:
            label_map = read_label_map(Path(options.label_map))
        else:
            label_map = _counted_map(labels, options.label_names)
        cases = tuple(
            CaseSource(name, "Tr" if name in labels else "Un", partial(_load, files, labels.get(name), label_map))
            for name, files in images.items()
        )
        return self.describe(
            cases,
            SamoraJson(origin=f"folder {folder.resolve()}", spacing_known=not pictures),
            (*_suffixes(pairs), *_notes(options.channel, pictures, len(images) - len(labels) if labels else 0)),
            about={"name": options.name},
            channels=_channel_names(options.channel, images, pictures),
            labels=label_map.labels,
        )

    def _pairs(self, folder: Path, labels: Path, asked: bool) -> Pairs:
        files = list_files(folder, _ENDINGS)
        if asked and not labels.is_dir():
            raise self.missing_source(labels, f"no folder {labels}")
        maps = list_files(labels, _ENDINGS)
        if not maps and not asked:
            files, maps = split_one_folder(files, _ENDINGS)
        pairs = pair_folders(files, maps, _ENDINGS)
        if not pairs.images:
            raise self.missing_source(folder, "no image file" if folder.is_dir() else f"no folder {folder}")
        return pairs


def _suffixes(pairs: Pairs) -> tuple[str, ...]:
    if not pairs.suffixes:
        return ()
    case, path = next(iter(pairs.labels.items()))
    return (f"label maps end with {' or '.join(pairs.suffixes)}: {path.name} is that of {case}",)


def _counted_map(labels: dict[str, Path], names: Sequence[str]) -> LabelMap:
    """Without a map: the values that occur, by name, or if they are 0, 1, 2, ...; damaged files are left for later."""
    if not labels:
        return LabelMap.numbered(*(names or ("foreground",)))
    occurring: set[int] = set()
    for path in labels.values():
        try:
            occurring |= set(np.unique(label_array(read_scan(path, label=True))).tolist())
        except DataError:
            continue
    foreground = sorted(occurring - {0})
    found = ", ".join(map(str, sorted(occurring))) or "no readable label map"
    if names and len(names) == len(set(names)) == len(foreground):
        return LabelMap({name: (value,) for name, value in zip(names, foreground, strict=True)})
    if names:
        expected = f"{len(names)} values beside 0, for {', '.join(names)}"
        raise DataError("E-LABEL-09", found=found, expected=expected, fix="--label-names with a name for each value")
    if len(foreground) == 1:
        return LabelMap({"foreground" if foreground != [1] else "label_1": (foreground[0],)})
    if foreground != list(range(1, len(foreground) + 1)) or not foreground:
        suggested = " ".join(f"label_{value}" for value in foreground)
        fix = f"--label-names {suggested}, or other names" if foreground else "look at the label maps"
        raise DataError("E-LABEL-09", found=found, expected="consecutive values from 0, or names", fix=fix)
    return LabelMap({f"label_{value}": (value,) for value in foreground})


def _pictures_only(folder: Path, images: dict[str, tuple[Path, ...]]) -> bool:
    pictures = {path.name.lower().endswith(".png") for paths in images.values() for path in paths}
    if len(pictures) > 1:
        raise DataError("E-SRC-04", found=str(folder))
    return pictures == {True}


def _channel_names(asked: list[str], images: dict[str, tuple[Path, ...]], pictures: bool) -> tuple[str, ...]:
    """The names asked for, else R, G, B for colour pictures, else one that claims nothing."""
    if asked:
        return tuple(asked)
    count = len(next(iter(images.values())))
    for path in (paths[0] for paths in images.values()) if pictures else ():
        try:
            return _COLOURS if read_scan(path).array.ndim == 4 else (_UNNAMED,)
        except DataError:
            # A damaged picture is skipped later; the next one will do.
            continue
    return (_UNNAMED,) * count


def _notes(asked: list[str], pictures: bool, unlabelled: int) -> tuple[str, ...]:
    notes = [f"{unlabelled} images have no label map and went to imagesUn"] if unlabelled else []
    if pictures:
        notes.append("pictures state no spacing: distances will be in pixels, not in mm")
    elif not asked:
        notes.append(f'the channels "{_UNNAMED}" are scaled scan by scan; for CT in HU say --channel CT')
    return tuple(notes)


def _load(images: tuple[Path, ...], label: Path | None, label_map: LabelMap) -> LoadedCase:
    loaded = load_files(images, label, label_map)
    return replace(loaded, unchanged=loaded.unchanged.intersection(images))
