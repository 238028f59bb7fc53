"""Synapse multi-organ: 30 abdominal CT scans with 8 organs, from the raw scans or from the preprocessed slices."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dataset_conversion.btcv_scans import CITATION, PAGE, TERMS, TREE, RawScans, find_raw_scans
from dataset_conversion.converter import CaseSource, Converter, Part, Survey, register
from dataset_conversion.file_names import shortened
from dataset_conversion.synapse_labels import ORDERS, ToldOrder, tell_order
from samora_pipeline.errors import DataError

if TYPE_CHECKING:
    from dataset_conversion.published import Published
    from dataset_conversion.synapse_slices import StoredCase, StoredSlices

_HALVES: tuple[tuple[Part, str], ...] = (("Tr", "train_npz"), ("Ts", "test_vol_h5"))


@register
class Synapse(Converter):
    """Both layouts give the same cases caseNNNN, the same labels and the same published lists."""

    name = "Synapse"
    summary = "30 abdominal CT scans with 8 organs, from the raw scans of BTCV or from TransUNet's preprocessed slices."
    page = PAGE
    terms = TERMS
    citation = f"{CITATION}; Chen et al., TransUNet, arXiv 2102.04306, 2021"
    tree = (
        f"{TREE}\n"
        "or the preprocessed distribution:\n"
        "FOLDER/\n"
        "  train_npz/caseNNNN_sliceNNN.npz   2211 slices: image, label\n"
        "  test_vol_h5/caseNNNN.npy.h5       12 volumes: image, label"
    )
    home = 1
    channels = ("CT",)
    label_maps = {
        "raw scans, and preprocessed copies with 13 organs (btcv)": ORDERS["btcv"],
        "preprocessed, samed": ORDERS["samed"],
        "preprocessed, transunet": ORDERS["transunet"],
    }
    remarks = (
        "Preprocessed copies are about in several label orders, which are told apart by the volumes of gallbladder "
        "and kidneys; where these leave a doubt, --label-order has to say it.",
        "Preprocessed slices were clipped to [-125, 275] HU and scaled to [0, 1]. The scaling is undone, the clipping "
        "cannot be; their spacing and orientation are not known, so distances come in pixels.",
        "Slices are mirrored in training, as in the published recipes, although left and right kidney are labels.",
        "Synapse and BTCV are the same 30 patients: one must not serve as unlabelled pool or test of the other.",
    )

    def add_options(self, parser: argparse._ActionsContainer) -> None:
        """The label order, where it cannot be told."""
        parser.add_argument(
            "--label-order",
            choices=sorted(ORDERS),
            default="",
            help="which values the organs have in preprocessed files (default: told by the volumes of organs)",
        )

    def published(self) -> Published:
        """The 18/12 split and the 221 slices."""
        from dataset_conversion.published import read_published

        return read_published("synapse")

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Find one of the two layouts; of preprocessed files some label maps are read, to tell their order."""
        from dataset_conversion.synapse_slices import find_stored_slices

        split = self.published().split
        test = frozenset(split.test if split else ())
        raw = find_raw_scans(source, ORDERS["btcv"], lambda name: "Ts" if name in test else "Tr")
        stored = find_stored_slices(source)
        if raw and stored:
            raise DataError(
                "E-SRC-12",
                f"{source} holds Synapse twice: raw scans and preprocessed slices",
                found=", ".join(str(folder.relative_to(source)) for folder in stored.folders) + " and img",
                expected="one of the two",
                fix="name the folder of one of them with -i",
            )
        if stored:
            return self._stored_survey(stored, options.label_order)
        if raw is None or not raw.cases:
            found = "; ".join(raw.notes) if raw else "no img/imgNNNN.nii.gz, no train_npz, no test_vol_h5"
            raise self.missing_source(source, found)
        return self._raw_survey(raw)

    def _raw_survey(self, raw: RawScans) -> Survey:
        from dataset_conversion.published import limit

        here, missing = limit(self.published(), {case.name for case in raw.cases})
        return self._described(raw.cases, here, "raw scans", True, raw.notes + missing)

    def _stored_survey(self, stored: StoredSlices, asked: str) -> Survey:
        from dataset_conversion.published import limit

        told = _order(stored, asked)
        cases = tuple(CaseSource(case.name, case.part, partial(case.load, ORDERS[told.order])) for case in stored.cases)
        here, missing = limit(self.published(), {case.name for case in stored.cases})
        here, lost = _renumbered(here, stored.cases)
        origin = f"TransUNet's preprocessed slices, label order {told.order}, scaling to [0, 1] undone"
        gaps = [f"{case.name} ({case.gaps})" for case in stored.cases if case.gaps]
        notes = [told.why, "preprocessed slices state no spacing: distances will be in pixels, not in mm"]
        if gaps:
            notes.append(f"cases with missing slices, which count from those that are left: {shortened(gaps, 40)}")
        return self._described(cases, here, origin, False, (*notes, *missing, *lost))

    def _described(
        self,
        cases: tuple[CaseSource, ...],
        published: Published,
        origin: str,
        spacing_known: bool,
        notes: tuple[str, ...],
    ) -> Survey:
        from dataset_conversion.synapse_slices import WINDOW
        from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson

        ours = SamoraJson(
            origin=f"BTCV (Synapse syn3193805), {origin}",
            citation=self.citation,
            terms=self.terms,
            spacing_known=spacing_known,
            budget_unit="slices",
            published_split=published.split,
            budgets=published.budgets,
            window=WINDOW,
            mirror=True,
        )
        labels = ORDERS["btcv"].labels
        description = DatasetJson({"0": "CT"}, labels, len(cases), ".nii.gz", extra={"name": self.name})
        return Survey(description, ours, cases, notes)


def _order(stored: StoredSlices, asked: str) -> ToldOrder:
    """The order asked for, else the one that both halves tell.

    Raises:
        DataError: ``E-LABEL-11`` it cannot be told, ``E-LABEL-12`` the halves differ.
    """
    from dataset_conversion.synapse_slices import count_labels

    if asked:
        return ToldOrder(asked, f"label order {asked}, as given with --label-order")
    told = [
        tell_order([(case.name, partial(count_labels, case)) for case in stored.cases if case.part == part], folder)
        for part, folder in _HALVES
        if any(case.part == part for case in stored.cases)
    ]
    if len({half.order for half in told}) > 1:
        raise DataError(
            "E-LABEL-12",
            "training slices and test volumes come in different label orders",
            found="; ".join(half.why for half in told),
            expected="one order, as in one distribution",
            fix="take both folders from the same distribution",
        )
    return ToldOrder(told[0].order, "; ".join(half.why for half in told))


def _renumbered(published: Published, cases: tuple[StoredCase, ...]) -> tuple[Published, tuple[str, ...]]:
    """Published slices as positions among the slices that are there, and a sentence about those that are not."""
    from dataclasses import replace

    by_name = {case.name: case for case in cases}
    budgets, notes = {}, []
    for name, budget in published.budgets.items():
        kept = {case: by_name[case].positions(numbers) for case, numbers in budget.slices.items()}
        kept = {case: positions for case, positions in kept.items() if positions}
        wanted, found = (sum(map(len, slices.values())) for slices in (budget.slices, kept))
        if found < wanted:
            notes.append(f"{wanted - found} of {wanted} published slices of {name} are missing")
        if kept:
            budgets[name] = replace(budget, cases=tuple(kept), slices=kept)
    return replace(published, budgets=budgets), tuple(notes)
