"""AMOS22: abdominal CT, and as a dataset of its own abdominal MR, with 15 organs. The modality follows from the id."""

import argparse
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.scans import ABDOMEN, LabelMap, load_files
from dataset_conversion.survey import (
    CaseSource,
    Identity,
    Part,
    Published,
    Survey,
    counted,
    is_listed,
    list_files,
    stem,
)
from samora_pipeline.contracts.dataset import PublishedSplit, SamoraJson

_ENDINGS = (".nii.gz", ".nii")
# The data set's own readme: ids from 500 are MR.
_FIRST_MR = 500
_CHANNELS = {"CT": "CT", "MR": "MRI"}
_FOLDERS = ("Tr", "Va", "Ts")
_ORGANS = LabelMap.numbered(
    *(*ABDOMEN, "inferior_vena_cava", "pancreas", "right_adrenal_gland", "left_adrenal_gland"),
    *("duodenum", "bladder", "prostate_or_uterus"),
)


@dataclass(frozen=True)
class Scan:
    """One file of a part of the challenge (Tr, Va, Ts), with its label map where there is one."""

    name: str
    folder: str
    image: Path
    label: Path | None

    @property
    def modality(self) -> str:
        """CT or MR."""
        return "MR" if int(self.name.removeprefix("amos_")) >= _FIRST_MR else "CT"

    @property
    def part(self) -> Part:
        """Validation and test scans are tested on; a training scan without labels is an unlabelled one."""
        if self.folder != "Tr":
            return "Ts"
        return "Tr" if self.label else "Un"


class AMOS22(Converter):
    """Names are kept; the validation part, whose labels are public, is the test set."""

    name = "AMOS22"
    summary = "500 abdominal CT and 100 MR scans with 15 organs, of which 300 CT and 60 MR have public labels."
    page = "https://zenodo.org/records/7262581"
    terms = "non-commercial (CC BY-NC-SA in its paper); the licence on the source page decides"
    citation = "Ji et al., AMOS: A Large-Scale Abdominal Multi-Organ Benchmark, NeurIPS 2022, arXiv 2206.08023"
    tree = (
        "FOLDER/                         or FOLDER/amos22, FOLDER/amos\n"
        "  imagesTr/amos_NNNN.nii.gz     240 scans; ids below 500 are CT, from 500 MR\n"
        "  labelsTr/amos_NNNN.nii.gz\n"
        "  imagesVa, labelsVa            120 scans\n"
        "  imagesTs (labelsTs)           120 scans"
    )
    home = 4
    channels = ("CT",)
    label_maps = {"labelsTr, labelsVa": _ORGANS}
    remarks = (
        "CT and MR make two datasets: AMOS22, and with --modality MR AMOS22MR (channel MRI, first free id).",
        "SAMora pre-trains on these scans: leave the validation part out of the pool before scoring on it.",
    )

    def add_options(self, parser: argparse._ActionsContainer) -> None:
        """The modality."""
        parser.add_argument("--modality", choices=list(_CHANNELS), default="CT", help="CT (ids below 500) or MR")

    def identify(self, token: str, source: Path, options: argparse.Namespace) -> Identity:
        """CT at home, MR as a dataset of its own."""
        return Identity(self.name, self.home) if options.modality == "CT" else Identity(f"{self.name}MR")

    def published(self) -> Published:
        """The parts of the challenge; which scans they are, the folders say."""
        return Published(
            "SAMora states none; the challenge's own: trained on imagesTr, scored on imagesVa (public labels)"
        )

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """List the three parts and keep one modality."""
        found = _scans(_home(source))
        scans = [scan for scan in found if scan.modality == options.modality]
        cases = [
            CaseSource(scan.name, scan.part, partial(load_files, [scan.image], scan.label, _ORGANS)) for scan in scans
        ]
        train = tuple(case.name for case in cases if case.part == "Tr")
        if not train:
            others = f"{len(found)} scans, but none to train on with modality {options.modality}"
            raise self.missing_source(source, others if found else "no file imagesTr/amos_NNNN.nii.gz")
        test = tuple(scan.name for scan in scans if scan.folder == "Va" and scan.label)
        split = PublishedSplit(train, test) if test else None
        return self.describe(
            cases,
            SamoraJson(origin=f"AMOS22, {options.modality} scans", published_split=split),
            _notes(scans, len(found) - len(scans), options.modality),
            about={"name": self.identify("", source, options).name},
            channels=(_CHANNELS[options.modality],),
        )


def _home(source: Path) -> Path:
    places = [source, source / "amos22", source / "amos"]
    return next((place for place in places if (place / "imagesTr").is_dir()), source)


def _scans(home: Path) -> list[Scan]:
    scans = []
    for folder in _FOLDERS:
        for image in list_files(home / f"images{folder}", _ENDINGS):
            name = stem(image, _ENDINGS)
            if re.fullmatch(r"amos_\d{4}", name):
                labels = [home / f"labels{folder}" / f"{name}{ending}" for ending in _ENDINGS]
                scans.append(Scan(name, folder, image, next((path for path in labels if is_listed(path)), None)))
    return scans


def _notes(scans: list[Scan], others: int, modality: str) -> tuple[str, ...]:
    other = "MR" if modality == "CT" else "CT"
    left_out = f"{others} scans are {other} by their id and were left out: --modality {other} converts them"
    bare = {folder: [s.name for s in scans if s.folder == folder and s.label is None] for folder in _FOLDERS}
    return (
        *([left_out] if others else []),
        *counted(bare["Tr"], "training scans have no label map and went to imagesUn"),
        *counted(bare["Va"], "validation scans have no label map and are not scored"),
    )
