"""BTCV: the 30 labelled abdominal CT scans of the challenge beyond the cranial vault, with all 13 organs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_conversion.btcv_scans import CITATION, ORGANS, PAGE, TERMS, TREE, find_raw_scans
from dataset_conversion.converter import Converter, Survey, register

if TYPE_CHECKING:
    from dataset_conversion.published import Published


@register
class BTCV(Converter):
    """The scans of Synapse with every label; case numbers are those of the files (img0005 becomes case0005)."""

    name = "BTCV"
    summary = "30 abdominal CT scans with 13 organs: the scans of Synapse, with every label."
    page = PAGE
    terms = TERMS
    citation = CITATION
    tree = TREE
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
        from dataset_conversion.published import Published, read_published

        origin = (
            "SAMora states no split for BTCV; this is the one of Synapse (18 training and 12 test cases), whose scans "
            "these are"
        )
        return Published(origin, read_published("synapse").split)

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Pair scans and label maps by number."""
        from dataset_conversion.published import limit
        from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson

        published = self.published()
        test = frozenset(published.split.test if published.split else ())
        scans = find_raw_scans(source, ORGANS, lambda name: "Ts" if name in test else "Tr")
        if scans is None or not scans.cases:
            raise self.missing_source(source, "; ".join(scans.notes) if scans else "no file img/imgNNNN.nii.gz")
        here, missing = limit(published, {case.name for case in scans.cases})
        return Survey(
            DatasetJson({"0": "CT"}, ORGANS.labels, len(scans.cases), ".nii.gz", extra={"name": self.name}),
            SamoraJson(
                origin="BTCV (Synapse syn3193805), raw scans",
                citation=self.citation,
                terms=self.terms,
                budget_unit="slices",
                published_split=here.split,
            ),
            scans.cases,
            scans.notes + missing,
        )
