"""LiTS: abdominal CT with liver and liver tumours, in the numbered files of the challenge."""

import argparse
import re
from functools import partial
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.scans import LabelMap, Spacing, doubtful_spacings, load_files
from dataset_conversion.survey import CaseSource, Survey, find_once, unpaired
from samora_pipeline.contracts.dataset import SamoraJson

_LABELS = LabelMap.numbered("liver", "tumour")


class LiTS(Converter):
    """Names are kept (volume-12, test-volume-3); the folders in which the parts of the download lie do not matter."""

    name = "LiTS"
    summary = "131 abdominal CT scans with liver and liver tumours, and 70 test scans without labels."
    page = "https://competitions.codalab.org/competitions/17094"
    terms = "non-commercial, no derivatives (CC BY-NC-ND); the licence on the source page decides"
    citation = "Bilic et al., The Liver Tumor Segmentation Benchmark (LiTS), Medical Image Analysis 84:102680, 2023"
    tree = (
        "FOLDER/\n"
        "  Training Batch 1/volume-N.nii          131 scans, in any folders\n"
        "  Training Batch 1/segmentation-N.nii    their label maps\n"
        "  Training Batch 2/...\n"
        "  test-volume-N.nii                      70 scans"
    )
    home = 5
    channels = ("CT",)
    label_maps = {"segmentation-N": _LABELS}
    remarks = (
        "The decathlon's Task03_Liver holds the same scans: never use both, nor one as test of the other.",
        "There is no published split of the labelled scans: five folds by patient are drawn.",
        "Copies are about in which some volumes state 1 x 1 x 1 mm: they are recognized, and distances come in pixels.",
    )

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Pair volumes and segmentations by number, wherever they lie."""
        scans, labels, test = (_numbered(source, kind) for kind in ("volume", "segmentation", "test-volume"))
        pairs = [(number, scan, labels[number]) for number, scan in scans.items() if number in labels]
        if not pairs:
            found = f"{len(scans)} files volume-N.nii, {len(labels)} files segmentation-N.nii, no pair"
            raise self.missing_source(source, found if scans or labels else "no file volume-N.nii")
        cases = [
            *(CaseSource(f"volume-{n}", "Tr", partial(load_files, [scan], label, _LABELS)) for n, scan, label in pairs),
            *(CaseSource(f"test-volume-{n}", "Ts", partial(load_files, [scan], None)) for n, scan in test.items()),
        ]
        usual = "the identity affine of copies that lost their geometry"
        known, doubts = doubtful_spacings(scans, _plausible, usual)
        ours = SamoraJson(origin="LiTS challenge", spacing_known=known)
        return self.describe(cases, ours, doubts + unpaired(scans, labels))


def _plausible(spacing: Spacing) -> bool:
    return spacing != (1.0, 1.0, 1.0)


def _numbered(source: Path, kind: str) -> dict[str, Path]:
    """Files of one kind in the order of their numbers, whatever their folder and whether they are compressed."""

    def name_of(path: Path) -> str | None:
        match = re.fullmatch(rf"{kind}-(\d+)\.nii(\.gz)?", path.name)
        return str(int(match[1])) if match else None

    found = find_once(source, f"{kind}-*.nii*", name_of)
    return dict(sorted(found.items(), key=lambda item: int(item[0])))
