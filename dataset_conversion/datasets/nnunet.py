"""A folder that is an nnU-Net raw dataset already: adopted as it is, by links to its files or as a copy."""

import argparse
import re
from dataclasses import replace
from functools import partial
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.scans import load_files
from dataset_conversion.survey import (
    CaseSource,
    Identity,
    LoadedCase,
    Part,
    Survey,
    faulty_load,
    files_of,
    list_files,
    shortened,
    stem,
)
from samora_pipeline.contracts.dataset import RawDataset, SamoraJson, read_dataset
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.files import stem as volume_stem
from samora_pipeline.imaging.inputs import IMAGE_ENDINGS, group_channels

# Formats that the library reads and writes; pictures and others become NIfTI.
_KEPT = (".nii.gz", ".nii", ".nrrd", ".mha")
_PARTS: tuple[Part, ...] = ("Tr", "Ts", "Un")
_FOLDER = re.compile(r"^Dataset(\d{3,})_(.+)$")


class NNUNet(Converter):
    """Keeps number, name, files and every key of dataset.json; training images without labels become unlabelled."""

    name = "nnUNet"
    summary = "A raw dataset of nnU-Net, adopted as it is: number, name, files and every key of dataset.json are kept."
    numbering = "keeps its own id"
    page = "https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md"
    terms = "those of the dataset"
    tree = (
        "DatasetNNN_Name/             -d DatasetNNN_Name, or -d nnUNet -i FOLDER\n"
        "  dataset.json               channel_names, labels, numTraining, file_ending\n"
        "  imagesTr/CASE_0000.nii.gz  one file for each channel\n"
        "  labelsTr/CASE.nii.gz\n"
        "  imagesTs, labelsTs, imagesUn (where there are any)"
    )

    def add_options(self, parser: argparse._ActionsContainer) -> None:
        """Links or copies."""
        parser.add_argument("--copy", action="store_true", help="copy the files instead of linking to them")

    def identify(self, token: str, source: Path, options: argparse.Namespace) -> Identity:
        """The folder's own number and name."""
        match = _FOLDER.match(source.resolve().name)
        if match is None:
            raise self.missing_source(source, f"a folder called {source.resolve().name}")
        return Identity(match[2], int(match[1]))

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Read dataset.json and list the files."""
        if not (source / "dataset.json").is_file():
            raise self.missing_source(source, f"no file {source / 'dataset.json'}")
        raw = read_dataset(source)
        if "dataset" in raw.description.extra:
            raise DataError("E-SRC-02", found='the key "dataset"')
        ending = raw.description.file_ending
        kept = ending in _KEPT
        by_part = {part: _cases(source, part, ending, kept) for part in _PARTS}
        moved = sum(case.part == "Un" for case in by_part["Tr"])
        notes = (f"{moved} training images have no label file and went to imagesUn",) if moved else ()
        ours = raw.ours if (source / "samora.json").is_file() else self._ours(raw)
        return Survey(
            raw.description if kept else replace(raw.description, file_ending=".nii.gz"),
            ours,
            tuple(case for cases in by_part.values() for case in cases),
            notes,
            placement="copy" if options.copy else "symlink",
        )

    def _ours(self, raw: RawDataset) -> SamoraJson:
        about = raw.description.extra
        return SamoraJson(
            origin=f"nnU-Net raw dataset {raw.folder.resolve().name}",
            citation=str(about.get("reference", "")),
            terms=str(about.get("licence") or about.get("license") or self.terms),
        )


def _cases(source: Path, part: Part, ending: str, kept: bool) -> list[CaseSource]:
    """The cases of one part; training images without a label file belong to the unlabelled ones.

    Raises:
        DataError: ``E-SRC-03`` there are label maps, and none is that of an image.
    """
    images = {path: stem(path, (ending,)) for path in list_files(source / f"images{part}", (ending,))}
    labels = _label_maps(source / f"labels{part}", ending) if part != "Un" else {}
    groups = group_channels(images, numbered=True)
    if groups and labels and not set(groups) & set(labels):
        shown = shortened([path.name for path in labels.values()])
        raise DataError("E-SRC-03", number=len(labels), images=shortened([*groups], 5), found=shown)
    found = []
    for name, channels in groups.items():
        paths, fault = files_of(name, channels)
        label = labels.get(name)
        goal: Part = "Un" if part == "Tr" and label is None else part
        found.append(CaseSource(name, goal, faulty_load(fault) if fault else partial(_load, paths, label, kept)))
    return found


def _label_maps(folder: Path, ending: str) -> dict[str, Path]:
    """Label maps by case: those with the dataset's ending, else of any other that is read."""
    own = {stem(path, (ending,)): path for path in list_files(folder, (ending,))}
    return {volume_stem(path): path for path in list_files(folder, IMAGE_ENDINGS)} | own


def _load(channels: tuple[Path, ...], label: Path | None, kept: bool) -> LoadedCase:
    # A colour picture holds all its channels in one file.
    loaded = load_files(channels, label)
    files = (*channels, label) if label else channels
    return replace(loaded, unchanged=frozenset(files if kept else ()))
