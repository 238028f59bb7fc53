"""Sparse labels on their way through planning and training: only slices with a label are drawn and learned from."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from planners.cli import main as plan
from samora_pipeline.contracts.splits import Draw, Splits, select
from samora_pipeline.contracts.stored_case import read_stored_case
from samora_pipeline.labelling import label_cli
from samora_pipeline.paths import resolve_roots
from samora_pipeline.slices.datasets import labelled_ids
from tests.labelling.conftest import NAME
from trainers.runs.planning import PlannedRun, plan_run
from trainers.runs.request import Request

CASE, IGNORE = "free_00", 3


def add_slices(root: Path, *indices: int) -> None:
    path = root / "cold" / "scans" / CASE / f"{CASE}_labels.nii.gz"
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj).copy()
    labels[:, :, list(indices)] = 0
    labels[3:9, 4:10, list(indices)] = 1
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    assert label_cli.main(["add", str(root / "cold"), "--root", str(root)]) == 0
    assert plan(["-d", "101", "--root", str(root), "-np", "1"]) == 0


def planned_run(root: Path, split: str) -> PlannedRun:
    return plan_run(Request("101", "UNetTrainer", split, fold="all", precision="fp32"), resolve_roots(str(root)))


def test_what_is_drawn_and_learned_from_has_labels(root: Path) -> None:
    add_slices(root, 2, 7)
    folder = root / "preprocessed" / NAME / "slices"
    assert read_stored_case(folder / f"{CASE}.json").blank_slices == (0, 1, 3, 4, 5, 6, 8, 9, 10, 11)
    assert read_stored_case(folder / "case_00.json").blank_slices == ()
    full = planned_run(root, "full")
    selection = full.config.selection
    assert selection.cases == ("case_00", "case_01", CASE)
    assert selection.slices == {CASE: (2, 7)}
    assert len(labelled_ids(selection, folder)) == 12 + 12 + 2
    full.context.dataset.store_selection(selection)
    # A slice more: what was stored no longer holds.
    add_slices(root, 4)
    assert planned_run(root, "full").config.selection.slices == {CASE: (2, 4, 7)}
    drawn = planned_run(root, "25slices").config.selection
    assert sum(map(len, drawn.slices.values())) == 25
    assert set(drawn.slices[CASE]) <= {2, 4, 7}


def test_the_loss_of_a_sparse_slice_ignores_what_has_no_label(root: Path) -> None:
    from samora_pipeline.slices.datasets import SliceSource

    path = root / "cold" / "scans" / CASE / f"{CASE}_labels.nii.gz"
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj).copy()
    labels[5, 4:8, 6] = 1
    labels[6, 4:8, 6] = 0
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    add_slices(root, 2)
    run = planned_run(root, "full")
    folder = root / "preprocessed" / NAME / "slices"
    ids = [one for one in labelled_ids(run.config.selection, folder) if one.case == CASE]
    assert [one.index for one in ids] == [2, 6]
    source = SliceSource(folder, ids, run.config.plans, 24, run.config.labels)
    whole, scribble = source.targets([0, 1])
    assert (whole >= 0).all()
    values, counts = torch.unique(scribble, return_counts=True)
    assert values.tolist() == [-1, 0, 1]
    assert counts[0] > 0.9 * scribble.numel()


@pytest.mark.parametrize("unit", ["cases", "slices"])
def test_blank_slices_are_never_drawn(unit: str) -> None:
    blank = {"a": (0, 1, 2, 3), "b": (5,)}
    draw = Draw("D", "x", {"a": 6, "b": 6, "c": 6}, "cases", "seed", blank)
    assert (draw.total("cases"), draw.total("slices")) == (3, 13)
    taken = draw.take(draw.total("cases" if unit == "cases" else "slices"), "cases" if unit == "cases" else "slices")
    found = {case: tuple(indices) if indices is not None else tuple(range(6)) for case, indices in taken.items()}
    assert found == {"a": (4, 5), "b": (0, 1, 2, 3, 4), "c": (0, 1, 2, 3, 4, 5)}
    assert (taken["c"] is None) == (unit == "cases")


def test_without_blank_slices_a_draw_is_what_it_was() -> None:
    splits = Splits("D", 1, "cases", {})
    counts = {"a": 5, "b": 7}
    assert select(splits, "6slices", "0", 3, counts) == select(splits, "6slices", "0", 3, counts, {"a": ()})
