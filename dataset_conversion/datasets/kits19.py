"""KiTS19: abdominal CT with kidneys and kidney tumours, one folder for each case.

The files have their slices along the first axis and say so in their affine. They are kept as they are: slices are
taken by anatomical direction later, so that no axis order has to be assumed.
"""

import argparse
import re
from functools import partial
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.scans import LabelMap, load_files
from dataset_conversion.survey import CaseSource, Survey, counted, is_listed
from samora_pipeline.contracts.dataset import SamoraJson

_IMAGE, _LABEL = "imaging.nii.gz", "segmentation.nii.gz"
_LABELS = LabelMap.numbered("kidney", "tumour")


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
        folders = _case_folders(source)
        bare = [folder.name for folder in folders if not is_listed(folder / _IMAGE)]
        cases = [_case(folder) for folder in folders if folder.name not in bare]
        if not any(case.part == "Tr" for case in cases):
            raise self.missing_source(source, _found(len(folders), len(bare)))
        notes = counted(bare, f"cases have no {_IMAGE} and were left out")
        return self.describe(cases, SamoraJson(origin="KiTS19 challenge"), notes)


def _case_folders(source: Path) -> list[Path]:
    for place in (source, source / "data", source / "kits19" / "data"):
        found = sorted(path for path in place.glob("case_*") if re.fullmatch(r"case_\d{5}", path.name))
        if folders := [path for path in found if path.is_dir()]:
            return folders
    return []


def _case(folder: Path) -> CaseSource:
    label = folder / _LABEL if is_listed(folder / _LABEL) else None
    return CaseSource(folder.name, "Tr" if label else "Ts", partial(load_files, [folder / _IMAGE], label, _LABELS))


def _found(folders: int, bare: int) -> str:
    if not folders:
        return "no folder case_NNNNN"
    if bare == folders:
        return f"{folders} cases without {_IMAGE}: python -m starter_code.get_imaging  fetches the scans"
    return f"{folders} cases, none with both {_IMAGE} and {_LABEL}"
