"""KiTS19: abdominal CT with kidneys and kidney tumours, one folder for each case.

The files have their slices along the first axis and say so in their affine. They are kept as they are: slices are
taken by anatomical direction later, so that no axis order has to be assumed.
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path

from dataset_conversion.converter import CaseSource, Converter, Survey, register
from dataset_conversion.file_names import shortened
from dataset_conversion.label_map import LabelMap
from dataset_conversion.scan_pairs import load_pair

_CASE = re.compile(r"case_\d{5}")
_IMAGE, _LABEL = "imaging.nii.gz", "segmentation.nii.gz"
_LABELS = LabelMap.numbered("kidney", "tumour")


@register
class KiTS19(Converter):
    """Names and files are kept; a case without a segmentation is a test case."""

    name = "KiTS19"
    summary = "210 abdominal CT scans with kidneys and kidney tumours, and 90 test scans without labels."
    page = "https://github.com/neheller/kits19"
    terms = "CC BY-NC-SA 4.0"
    citation = "Heller et al., The KiTS19 Challenge Data, arXiv 1904.00445, 2019"
    tree = (
        "FOLDER/                                or FOLDER/data, FOLDER/kits19/data\n"
        "  case_NNNNN/imaging.nii.gz            300 scans, slices along the first axis\n"
        "  case_NNNNN/segmentation.nii.gz       210 label maps"
    )
    home = 6
    channels = ("CT",)
    label_maps = {"segmentation.nii.gz": _LABELS}
    remarks = (
        "A clone of the repository holds the label maps alone; its starter_code.get_imaging fetches the scans.",
        "There is no published split of the labelled scans: five folds by patient are drawn.",
    )

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """List the folders of the cases."""
        from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson

        folders = _case_folders(source)
        cases = tuple(_case(folder) for folder in folders if (folder / _IMAGE).is_file())
        training = sum(case.part == "Tr" for case in cases)
        bare = [folder.name for folder in folders if not (folder / _IMAGE).is_file()]
        if not training:
            raise self.missing_source(source, _found(len(folders), len(bare)))
        notes = (f"{len(bare)} cases have no {_IMAGE} and were left out: {shortened(bare)}",) if bare else ()
        return Survey(
            DatasetJson({"0": "CT"}, _LABELS.labels, training, ".nii.gz", extra={"name": self.name}),
            SamoraJson(origin="KiTS19 challenge", citation=self.citation, terms=self.terms),
            cases,
            notes,
        )


def _case_folders(source: Path) -> list[Path]:
    for place in (source, source / "data", source / "kits19" / "data"):
        folders = sorted(path for path in place.glob("case_*") if _CASE.fullmatch(path.name) and path.is_dir())
        if folders:
            return folders
    return []


def _case(folder: Path) -> CaseSource:
    label = folder / _LABEL
    labelled = label.is_file()
    load = partial(load_pair, folder / _IMAGE, label if labelled else None, _LABELS)
    return CaseSource(folder.name, "Tr" if labelled else "Ts", load)


def _found(folders: int, bare: int) -> str:
    if not folders:
        return "no folder case_NNNNN"
    if bare == folders:
        return f"{folders} cases without {_IMAGE}: python -m starter_code.get_imaging  fetches the scans"
    return f"{folders} cases, none with both {_IMAGE} and {_LABEL}"
