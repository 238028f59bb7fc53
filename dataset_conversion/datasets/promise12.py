"""PROMISE12: T2-weighted MR of the prostate, in the MetaImage files of the challenge."""

import argparse
import re
from functools import partial
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.scans import LabelMap, Spacing, doubtful_spacings, load_files
from dataset_conversion.survey import CaseSource, Published, Survey, counted, find_once, is_listed, limit

_LABELS = LabelMap.numbered("prostate")


class PROMISE12(Converter):
    """The challenge's own test scans repeat the names of training scans and have no labels: TestCaseNN, unlabelled."""

    name = "PROMISE12"
    summary = "50 T2-weighted MR scans of the prostate with labels, and the challenge's 30 test scans without."
    page = "https://promise12.grand-challenge.org"
    terms = "research; the terms of the challenge decide"
    citation = "Litjens et al., Medical Image Analysis 18:359-373, 2014, doi 10.1016/j.media.2013.12.002"
    tree = (
        "FOLDER/\n"
        "  TrainingData/CaseNN.mhd, CaseNN.raw            50 scans, in any folders\n"
        "  TrainingData/CaseNN_segmentation.mhd, .raw     their label maps\n"
        "  TestData/CaseNN.mhd, CaseNN.raw                optional: 30 scans, which become unlabelled ones"
    )
    home = 3
    channels = ("T2",)
    label_maps = {"CaseNN_segmentation": _LABELS}
    lists = "promise12"
    remarks = (
        "The literature tests on ten of the 50 labelled scans, because the challenge's test labels are not public.",
        "7.5pct is 3 of 40 scans: Case05, Case14 and Case29; 7.5pct_slices is their slices with prostate, on which "
        "H-SAM trains.",
        "Resampled copies without spacing are about: they are recognized, and distances then come in pixels.",
    )

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Find the scans by name, and compare the spacings they state with what prostate MR has."""
        scans = find_once(source, "Case*.mh[ad]", partial(_name, source))
        if not scans:
            raise self.missing_source(source, "no file CaseNN.mhd")
        published = self.published()
        cases = [_case(name, path, published) for name, path in scans.items()]
        bare = [case.name for case in cases if case.part == "Un"]
        here, missing = limit(published, {*scans} - {*bare})
        known, doubts = doubtful_spacings(scans, _plausible, "where prostate MR has slices thicker than its pixels")
        ours = here.samora_json(f"PROMISE12 challenge; lists: {here.origin}", known)
        notes = missing + doubts + counted(bare, "scans have no label map and went to imagesUn")
        return self.describe(cases, ours, notes)


def _name(source: Path, path: Path) -> str | None:
    """CaseNN; TestCaseNN below a folder of test scans."""
    match = re.fullmatch(r"(Case\d\d)\.(mhd|mha)", path.name)
    hidden = any(part.lower().startswith("test") for part in path.relative_to(source).parts[:-1])
    return f"{'Test' if hidden else ''}{match[1]}" if match else None


def _case(name: str, path: Path, published: Published) -> CaseSource:
    label = path.with_name(f"{path.stem}_segmentation{path.suffix}")
    if not is_listed(label):
        return CaseSource(name, "Un", partial(load_files, [path], None, _LABELS))
    return CaseSource(name, published.part(name), partial(load_files, [path], label, _LABELS))


def _plausible(spacing: Spacing) -> bool:
    """In the challenge, slices are 2.2 to 4 mm apart and pixels at most 0.75 mm wide."""
    x, y, through = spacing
    return through >= 1.5 * max(x, y)
