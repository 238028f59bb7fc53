"""Synapse multi-organ: 30 abdominal CT scans with 8 organs, from the raw scans or from the preprocessed slices."""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.datasets.btcv import BTCV, find_raw_scans
from dataset_conversion.survey import CaseSource, Part, Published, Survey, counted, limit
from dataset_conversion.synapse_labels import ORDERS, FoundOrder, find_order
from dataset_conversion.synapse_slices import WINDOW, StoredCase, count_labels, find_stored_slices
from samora_pipeline.errors import DataError

_NO_SPACING = "preprocessed slices state no spacing: distances will be in pixels, not in mm"
_HALVES: tuple[tuple[Part, str], ...] = (("Tr", "train_npz"), ("Ts", "test_vol_h5"))


class Synapse(Converter):
    """Both layouts give the same cases caseNNNN, the same labels and the same published lists."""

    name = "Synapse"
    summary = "30 abdominal CT scans with 8 organs, from the raw scans of BTCV or from TransUNet's preprocessed slices."
    page = BTCV.page
    terms = BTCV.terms
    citation = f"{BTCV.citation}; Chen et al., TransUNet, arXiv 2102.04306, 2021"
    tree = (
        f"{BTCV.tree}\n"
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
    lists = "synapse"
    remarks = (
        "Preprocessed copies come in several label orders, found by the volumes of organs or said with --label-order.",
        "Preprocessed slices were clipped to [-125, 275] HU and scaled to [0, 1]. The scaling is undone, the clipping "
        "cannot be; their spacing and orientation are not known, so distances come in pixels.",
        "Slices are mirrored in training, as in the published recipes, although left and right kidney are labels.",
        BTCV.remarks[0],
    )

    def add_options(self, parser: argparse._ActionsContainer) -> None:
        """The label order, where the volumes leave a doubt."""
        values = "which values the organs have in preprocessed files (default: found by the volumes of organs)"
        parser.add_argument("--label-order", choices=sorted(ORDERS), default="", help=values)

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Find one of the two layouts; of preprocessed files some label maps are read, to find their order."""
        published = self.published()
        raw, raw_notes = find_raw_scans(source, ORDERS["btcv"], published)
        stored, folders = find_stored_slices(source)
        if (raw or raw_notes) and stored:
            places = ", ".join(str(folder.relative_to(source)) for folder in folders)
            raise DataError("E-SRC-12", source=source, found=f"{places} and img")
        if not raw and not stored:
            raise self.missing_source(source, "; ".join(raw_notes) or "no imgNNNN.nii.gz, train_npz or test_vol_h5")
        here, notes = limit(published, {*(case.name for case in raw), *(case.name for case in stored)})
        cases, origin, notes = raw, "raw scans", raw_notes + notes
        if stored:
            told = _order(stored, options.label_order)
            cases = tuple(CaseSource(case.name, case.part, partial(case.load, ORDERS[told.order])) for case in stored)
            here, lost = _renumbered(here, stored)
            origin = f"TransUNet's preprocessed slices, label order {told.order}, scaling to [0, 1] undone"
            notes = (told.why, _NO_SPACING, *_gaps(stored), *notes, *lost)
        ours = here.samora_json(f"BTCV (Synapse syn3193805), {origin}", not stored)
        return self.describe(cases, replace(ours, budget_unit="slices", window=WINDOW, mirror=True), notes)


def _gaps(stored: tuple[StoredCase, ...]) -> tuple[str, ...]:
    gaps = [f"{case.name} ({case.gaps})" for case in stored if case.gaps]
    return counted(gaps, "cases have missing slices and count from those that are left", 40)


def _order(stored: tuple[StoredCase, ...], given: str) -> FoundOrder:
    """The order given with --label-order, else the one that the volumes of both halves show.

    Raises:
        DataError: ``E-LABEL-11`` no order is clear, ``E-LABEL-12`` the halves differ.
    """
    if given:
        return FoundOrder(given, f"label order {given}, as given with --label-order")
    halves = [
        find_order([partial(count_labels, case) for case in stored if case.part == part], folder)
        for part, folder in _HALVES
        if any(case.part == part for case in stored)
    ]
    why = "; ".join(half.why for half in halves)
    if len({half.order for half in halves}) > 1:
        raise DataError("E-LABEL-12", found=why)
    return FoundOrder(halves[0].order, why)


def _renumbered(published: Published, cases: tuple[StoredCase, ...]) -> tuple[Published, tuple[str, ...]]:
    """Published slices as positions among the slices that are there, and a note about those that are not."""
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
