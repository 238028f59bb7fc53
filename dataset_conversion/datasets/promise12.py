"""PROMISE12: T2-weighted MR of the prostate, in the MetaImage files of the challenge."""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_conversion.converter import CaseSource, Converter, Part, Survey, register
from dataset_conversion.file_names import shortened
from dataset_conversion.label_map import LabelMap
from dataset_conversion.scan_pairs import load_pair
from samora_pipeline.errors import DataError

if TYPE_CHECKING:
    from dataset_conversion.headers import Spacing
    from dataset_conversion.published import Published

_FILE = re.compile(r"(Case\d\d)\.(mhd|mha)")
_LABELS = LabelMap.numbered("prostate")


@register
class PROMISE12(Converter):
    """The challenge's own test scans repeat the names of training scans and have no labels: TestCaseNN, unlabelled."""

    name = "PROMISE12"
    summary = "50 T2-weighted MR scans of the prostate with labels, and the challenge's 30 test scans without."
    page = "https://promise12.grand-challenge.org"
    terms = "research; the terms of the challenge decide"
    citation = (
        "Litjens et al., Evaluation of prostate segmentation algorithms for MRI: The PROMISE12 challenge, Medical "
        "Image Analysis 18:359-373, 2014, doi 10.1016/j.media.2013.12.002"
    )
    tree = (
        "FOLDER/\n"
        "  TrainingData/CaseNN.mhd, CaseNN.raw            50 scans, in any folders\n"
        "  TrainingData/CaseNN_segmentation.mhd, .raw     their label maps\n"
        "  TestData/CaseNN.mhd, CaseNN.raw                optional: 30 scans, which become unlabelled ones"
    )
    home = 3
    channels = ("T2",)
    label_maps = {"CaseNN_segmentation": _LABELS}
    remarks = (
        "The literature tests on ten of the 50 labelled scans, because the challenge's test labels are not public.",
        "7.5pct is 3 of 40 scans: Case05, Case14 and Case29.",
        "Resampled copies without spacing are about: they are recognized, and distances then come in pixels.",
    )

    def published(self) -> Published:
        """The 40/10 split and the three scans of 7.5pct."""
        from dataset_conversion.published import read_published

        return read_published("promise12")

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Find the scans by name, and compare the spacings they state with what prostate MR has."""
        from dataset_conversion.headers import doubtful_spacings, spacing_note
        from dataset_conversion.published import limit
        from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson

        scans = _find(source)
        if not scans:
            raise self.missing_source(source, "no file CaseNN.mhd")
        published = self.published()
        test = frozenset(published.split.test if published.split else ())
        cases = tuple(_case(name, path, test) for name, path in scans.items())
        training = [case.name for case in cases if case.part != "Un"]
        here, missing = limit(published, training)
        doubtful = doubtful_spacings(scans, _plausible)
        notes = list(missing)
        if doubtful:
            usual = "where prostate MR has slices thicker than its pixels"
            notes.append(spacing_note(doubtful, len(scans), usual))
        if bare := [case.name for case in cases if case.part == "Un"]:
            notes.append(f"{len(bare)} scans have no label map and went to imagesUn: {shortened(bare)}")
        return Survey(
            DatasetJson({"0": "T2"}, _LABELS.labels, len(training), ".nii.gz", extra={"name": self.name}),
            SamoraJson(
                origin=f"PROMISE12 challenge; lists: {here.origin}",
                citation=self.citation,
                terms=self.terms,
                spacing_known=not doubtful,
                published_split=here.split,
                budgets=here.budgets,
            ),
            cases,
            tuple(notes),
        )


def _find(source: Path) -> dict[str, Path]:
    """Scans by the name of their case.

    Raises:
        DataError: ``E-SRC-23`` when a case is there twice.
    """
    found: dict[str, Path] = {}
    for path in sorted(source.rglob("Case*.mh[ad]")):
        match = _FILE.fullmatch(path.name)
        if match is None or not path.is_file() or "__MACOSX" in path.parts:
            continue
        hidden = any(part.lower().startswith("test") for part in path.relative_to(source).parts[:-1])
        name = f"Test{match[1]}" if hidden else match[1]
        if name in found:
            raise DataError(
                "E-SRC-23",
                f"the scan {name} is there twice",
                found=f"{found[name].relative_to(source)} and {path.relative_to(source)}",
                expected="each scan once, the challenge's test scans in a folder TestData",
                fix="move one of them away, or name a folder that holds one of them with -i",
            )
        found[name] = path
    return dict(sorted(found.items()))


def _case(name: str, path: Path, test: frozenset[str]) -> CaseSource:
    label = path.with_name(f"{path.stem}_segmentation{path.suffix}")
    if not label.is_file():
        return CaseSource(name, "Un", partial(load_pair, path, None, _LABELS))
    part: Part = "Ts" if name in test else "Tr"
    return CaseSource(name, part, partial(load_pair, path, label, _LABELS))


def _plausible(spacing: Spacing) -> bool:
    """In the challenge, slices are 2.2 to 4 mm apart and pixels at most 0.75 mm wide."""
    x, y, through = spacing
    return through >= 1.5 * max(x, y)
