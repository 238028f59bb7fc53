"""AMOS22: abdominal CT, and as a dataset of its own abdominal MR, with 15 organs. The modality follows from the id."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_conversion.converter import CaseSource, Converter, Identity, Part, Survey, register
from dataset_conversion.file_names import list_files, shortened, stem
from dataset_conversion.label_map import LabelMap
from dataset_conversion.scan_pairs import load_pair

if TYPE_CHECKING:
    from dataset_conversion.published import Published

_ENDINGS = (".nii.gz", ".nii")
_CASE = re.compile(r"amos_(\d{4})")
# The data set's own readme: ids from 500 are MR.
_FIRST_MR = 500
_CHANNELS = {"CT": "CT", "MR": "MRI"}
_FOLDERS: tuple[tuple[str, Part], ...] = (("Tr", "Tr"), ("Va", "Ts"), ("Ts", "Ts"))
_ORGANS = LabelMap.numbered(
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
    "duodenum",
    "bladder",
    "prostate_or_uterus",
)


@dataclass(frozen=True)
class Scan:
    """One file of a part of the challenge (Tr, Va, Ts), with its label map where there is one."""

    name: str
    folder: str
    part: Part
    image: Path
    label: Path | None

    @property
    def modality(self) -> str:
        """CT or MR."""
        return "MR" if int(self.name.removeprefix("amos_")) >= _FIRST_MR else "CT"


@register
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
        parser.add_argument(
            "--modality", choices=list(_CHANNELS), default="CT", help="CT (ids below 500) or MR (default CT)"
        )

    def identify(self, token: str, source: Path, options: argparse.Namespace) -> Identity:
        """CT at home, MR as a dataset of its own."""
        return Identity(self.name, self.home) if options.modality == "CT" else Identity(f"{self.name}MR")

    def published(self) -> Published:
        """The parts of the challenge; which scans they are, the folders say."""
        from dataset_conversion.published import Published

        return Published(
            "SAMora states no split for AMOS22; this is the challenge's own: trained on imagesTr, scored on imagesVa, "
            "the part whose labels are public"
        )

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """List the three parts and keep one modality."""
        from samora_pipeline.contracts.dataset import DatasetJson, PublishedSplit, SamoraJson

        found = _scans(_home(source))
        scans = [scan for scan in found if scan.modality == options.modality]
        cases = tuple(_case(scan) for scan in scans)
        if not any(case.part == "Tr" for case in cases):
            others = f"{len(found)} scans, but none to train on with modality {options.modality}"
            raise self.missing_source(source, others if found else "no file imagesTr/amos_NNNN.nii.gz")
        split = PublishedSplit(
            tuple(case.name for case in cases if case.part == "Tr"),
            tuple(scan.name for scan in scans if scan.folder == "Va" and scan.label),
        )
        about = {"name": self.identify("", source, options).name}
        channel = _CHANNELS[options.modality]
        return Survey(
            DatasetJson({"0": channel}, _ORGANS.labels, len(split.train), ".nii.gz", extra=about),
            SamoraJson(
                origin=f"AMOS22, {options.modality} scans",
                citation=self.citation,
                terms=self.terms,
                published_split=split if split.test else None,
            ),
            cases,
            _notes(scans, len(found) - len(scans), options.modality),
        )


def _home(source: Path) -> Path:
    places = [source, source / "amos22", source / "amos"]
    return next((place for place in places if (place / "imagesTr").is_dir()), source)


def _scans(home: Path) -> list[Scan]:
    scans = []
    for folder, part in _FOLDERS:
        for image in list_files(home / f"images{folder}", _ENDINGS):
            name = stem(image, _ENDINGS)
            if _CASE.fullmatch(name):
                labels = [home / f"labels{folder}" / f"{name}{ending}" for ending in _ENDINGS]
                label = next((path for path in labels if path.is_file()), None)
                scans.append(Scan(name, folder, part, image, label))
    return scans


def _case(scan: Scan) -> CaseSource:
    part: Part = "Un" if scan.part == "Tr" and scan.label is None else scan.part
    return CaseSource(scan.name, part, partial(load_pair, scan.image, scan.label, _ORGANS))


def _notes(scans: list[Scan], others: int, modality: str) -> tuple[str, ...]:
    notes = []
    if others:
        other = "MR" if modality == "CT" else "CT"
        notes.append(f"{others} scans are {other} by their id and were left out: --modality {other} converts them")
    if bare := [scan.name for scan in scans if scan.label is None and scan.folder == "Tr"]:
        notes.append(f"{len(bare)} training scans have no label map and went to imagesUn: {shortened(bare)}")
    if bare := [scan.name for scan in scans if scan.label is None and scan.folder == "Va"]:
        notes.append(f"{len(bare)} validation scans have no label map and are not scored: {shortened(bare)}")
    return tuple(notes)
