"""LiTS: abdominal CT with liver and liver tumours, in the numbered files of the challenge."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path

from dataset_conversion.converter import CaseSource, Converter, Survey, register
from dataset_conversion.file_names import shortened
from dataset_conversion.label_map import LabelMap
from dataset_conversion.scan_pairs import load_pair
from samora_pipeline.errors import DataError

_FILE = re.compile(r"(volume|segmentation|test-volume)-(\d+)\.nii(\.gz)?")
_LABELS = LabelMap.numbered("liver", "tumour")


@register
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
    )

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Pair volumes and segmentations by number, wherever they lie."""
        from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson

        files = _files(source)
        scans, labels = files["volume"], files["segmentation"]
        training = [
            CaseSource(f"volume-{number}", "Tr", partial(load_pair, scans[number], labels[number], _LABELS))
            for number in sorted(scans)
            if number in labels
        ]
        if not training:
            found = f"{len(scans)} files volume-N.nii, {len(labels)} files segmentation-N.nii, no pair"
            raise self.missing_source(source, found if scans or labels else "no file volume-N.nii")
        test = [
            CaseSource(f"test-volume-{number}", "Ts", partial(load_pair, path, None, _LABELS))
            for number, path in sorted(files["test-volume"].items())
        ]
        return Survey(
            DatasetJson({"0": "CT"}, _LABELS.labels, len(training), ".nii.gz", extra={"name": self.name}),
            SamoraJson(origin="LiTS challenge", citation=self.citation, terms=self.terms),
            (*training, *test),
            _notes(scans, labels),
        )


def _files(source: Path) -> dict[str, dict[int, Path]]:
    """Files by kind and number.

    Raises:
        DataError: ``E-SRC-13`` when a number occurs twice.
    """
    found: dict[str, dict[int, Path]] = {"volume": {}, "segmentation": {}, "test-volume": {}}
    for path in sorted(source.rglob("*.nii*")):
        match = _FILE.fullmatch(path.name)
        if match is None or not path.is_file() or "__MACOSX" in path.parts:
            continue
        kind, number = match[1], int(match[2])
        if number in found[kind]:
            raise DataError(
                "E-SRC-13",
                f"{path.name} is there twice",
                found=f"{found[kind][number].relative_to(source)} and {path.relative_to(source)}",
                expected="each scan once",
                fix="move one of them away, or name a folder that holds one of them with -i",
            )
        found[kind][number] = path
    return found


def _notes(scans: dict[int, Path], labels: dict[int, Path]) -> tuple[str, ...]:
    notes = []
    if alone := [path.name for number, path in sorted(scans.items()) if number not in labels]:
        notes.append(f"{len(alone)} scans have no label map and were left out: {shortened(alone)}")
    if alone := [path.name for number, path in sorted(labels.items()) if number not in scans]:
        notes.append(f"{len(alone)} label maps have no scan and were left out: {shortened(alone)}")
    return tuple(notes)
