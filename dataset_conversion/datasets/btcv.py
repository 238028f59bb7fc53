"""BTCV: the 30 labelled abdominal CT scans of the challenge beyond the cranial vault, with all 13 organs.

Synapse has the same raw scans; ``find_raw_scans`` serves both.
"""

import argparse
import re
from functools import partial
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.scans import ABDOMEN, LabelMap, load_files
from dataset_conversion.survey import CaseSource, Published, Survey, limit, list_files, read_published, stem, unpaired
from samora_pipeline.contracts.dataset import SamoraJson

ORGANS = LabelMap.numbered(
    *(*ABDOMEN, "inferior_vena_cava", "portal_and_splenic_vein", "pancreas"),
    *("right_adrenal_gland", "left_adrenal_gland"),
)

_ENDINGS = (".nii.gz", ".nii")
_PLACES = ("", "Training", "RawData/Training", "Abdomen/RawData/Training")


class BTCV(Converter):
    """The scans of Synapse with every label; case numbers are those of the files (img0005 becomes case0005)."""

    name = "BTCV"
    summary = "30 abdominal CT scans with 13 organs: the scans of Synapse, with every label."
    page = "https://www.synapse.org/Synapse:syn3193805"
    terms = "the data use agreement of Synapse syn3193805 (free account); not to be passed on"
    citation = "Landman et al., MICCAI Multi-Atlas Labeling Beyond the Cranial Vault, 2015, doi 10.7303/syn3193805"
    tree = (
        "FOLDER/                      or FOLDER/Training, FOLDER/RawData/Training, FOLDER/Abdomen/RawData/Training\n"
        "  img/imgNNNN.nii.gz         30 scans\n"
        "  label/labelNNNN.nii.gz     their label maps"
    )
    home = 7
    channels = ("CT",)
    label_maps = {"raw scans": ORGANS}
    remarks = (
        "Synapse and BTCV are the same 30 patients: one must not serve as unlabelled pool or test of the other.",
        "The 20 scans of RawData/Testing have no public labels and are left out.",
        "Papers that hold out the cases 0035 to 0040 use another split than the one here.",
    )

    def published(self) -> Published:
        """The split of Synapse, so that a test scan of the one is never trained on in the other."""
        origin = "SAMora states none; that of Synapse, whose scans these are (18 training and 12 test cases)"
        return Published(origin, read_published("synapse").split)

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Pair scans and label maps by number."""
        cases, notes = find_raw_scans(source, ORGANS, self.published())
        if not cases:
            raise self.missing_source(source, "; ".join(notes) or "no file img/imgNNNN.nii.gz")
        here, missing = limit(self.published(), {case.name for case in cases})
        origin = "BTCV (Synapse syn3193805), raw scans"
        ours = SamoraJson(origin=origin, budget_unit="slices", published_split=here.split)
        return self.describe(cases, ours, notes + missing)


def find_raw_scans(
    source: Path, label_map: LabelMap, published: Published
) -> tuple[tuple[CaseSource, ...], tuple[str, ...]]:
    """The labelled cases caseNNNN of the first of the known places that holds scans, and notes about unpaired files."""
    for place in _PLACES:
        if images := _numbered(source / place / "img", "img"):
            labels = _numbered(source / place / "label", "label")
            cases = (
                CaseSource(name, published.part(name), partial(load_files, [image], labels[name], label_map))
                for name, image in images.items()
                if name in labels
            )
            return tuple(cases), unpaired(images, labels)
    return (), ()


def _numbered(folder: Path, prefix: str) -> dict[str, Path]:
    found = ((re.fullmatch(rf"{prefix}(\d{{4}})", stem(path, _ENDINGS)), path) for path in list_files(folder, _ENDINGS))
    return {f"case{match[1]}": path for match, path in found if match}
