"""The raw scans of BTCV, which are Synapse too: where they lie in a download, and the cases they make."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dataset_conversion.converter import CaseSource, Part
from dataset_conversion.file_names import list_files, shortened, stem
from dataset_conversion.label_map import LabelMap
from dataset_conversion.scan_pairs import load_pair

ORGANS = LabelMap.numbered(
    "spleen",
    "right_kidney",
    "left_kidney",
    "gallbladder",
    "esophagus",
    "liver",
    "stomach",
    "aorta",
    "inferior_vena_cava",
    "portal_and_splenic_vein",
    "pancreas",
    "right_adrenal_gland",
    "left_adrenal_gland",
)
PAGE = "https://www.synapse.org/Synapse:syn3193805"
TERMS = "the data use agreement of Synapse syn3193805 (free account); not to be passed on"
CITATION = "Landman et al., MICCAI Multi-Atlas Labeling Beyond the Cranial Vault, 2015, doi 10.7303/syn3193805"
TREE = (
    "FOLDER/                      or FOLDER/Training, FOLDER/RawData/Training, FOLDER/Abdomen/RawData/Training\n"
    "  img/imgNNNN.nii.gz         30 scans\n"
    "  label/labelNNNN.nii.gz     their label maps"
)

_ENDINGS = (".nii.gz", ".nii")
_PLACES = ("", "Training", "RawData/Training", "Abdomen/RawData/Training")
_IMAGE = re.compile(r"img(\d{4})")
_LABEL = re.compile(r"label(\d{4})")


@dataclass(frozen=True)
class RawScans:
    """The labelled cases of a download, named caseNNNN, and sentences about files that make none."""

    cases: tuple[CaseSource, ...]
    notes: tuple[str, ...]


def find_raw_scans(source: Path, label_map: LabelMap, part: Callable[[str], Part]) -> RawScans | None:
    """The cases of the first of the known places that holds scans, None when none does.

    ``part`` says of each case whether it is trained or tested on.
    """
    for place in _PLACES:
        images = _numbered(source / place / "img", _IMAGE)
        if images:
            return _pair(images, _numbered(source / place / "label", _LABEL), label_map, part)
    return None


def _pair(
    images: dict[str, Path], labels: dict[str, Path], label_map: LabelMap, part: Callable[[str], Part]
) -> RawScans:
    cases = tuple(
        CaseSource(name, part(name), partial(load_pair, image, labels[name], label_map))
        for name, image in images.items()
        if name in labels
    )
    notes = []
    if alone := [path.name for name, path in images.items() if name not in labels]:
        notes.append(f"{len(alone)} scans have no label map and were left out: {shortened(alone)}")
    if alone := [path.name for name, path in labels.items() if name not in images]:
        notes.append(f"{len(alone)} label maps have no scan and were left out: {shortened(alone)}")
    return RawScans(cases, tuple(notes))


def _numbered(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    found = ((pattern.fullmatch(stem(path, _ENDINGS)), path) for path in list_files(folder, _ENDINGS))
    return {f"case{match[1]}": path for match, path in found if match}
