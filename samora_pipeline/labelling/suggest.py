"""One folder to hand to an annotator: the chosen slices, their scans, what is labelled, and what a model proposes."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from samora_pipeline.contracts.dataset import RawCase
from samora_pipeline.contracts.json_io import to_plain, write_json
from samora_pipeline.contracts.label_table import label_table
from samora_pipeline.contracts.labelling import (
    GIVEN_FOLDER,
    MAP_ENDING,
    PROPOSAL_ENDING,
    ROUND_FILE,
    SCANS_FOLDER,
    AskedSlice,
    HandedCase,
    Round,
)
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.escaping import csv_text
from samora_pipeline.files import atomic_path, digest_file, digest_json, sweep, write_text
from samora_pipeline.imaging.files import read_grid, read_volume, write_labels
from samora_pipeline.imaging.itksnap import write_itksnap
from samora_pipeline.imaging.segmentations import write_segmentation
from samora_pipeline.imaging.volume import Volume, digest_voxels
from samora_pipeline.labelling import scans, scoring
from samora_pipeline.labelling.proposals import Proposer, open_proposer
from samora_pipeline.labelling.scans import LabelledDataset, Labels
from samora_pipeline.labelling.scoring import Pick
from samora_pipeline.labelling.sheet import Sheet
from samora_pipeline.paths import Roots
from samora_pipeline.run_log import Progress

TABLE_FILE = "slices.csv"
ITKSNAP_FILE = "itksnap_labels.txt"
_PREDICTIONS = "predictions"


@dataclass(frozen=True)
class Request:
    """The arguments of ``samora_suggest``."""

    dataset: str
    output: Path
    slices: int
    per_scan: int | None = None
    model: str | None = None
    beside: tuple[Path, ...] = ()
    seed: int = 0
    device: str | None = None
    allow_code: bool = False


def suggest(request: Request, roots: Roots, report: Callable[[str], None]) -> Round:
    """Choose slices and write the hand-over folder; the raw dataset is only read.

    Killed, the same command goes on with the predictions that are there.

    Raises:
        UsageError: ``E-ROUND-03`` numbers that are not positive.
        DataError: ``E-ROUND-01`` the folder holds something, ``E-ROUND-04`` fewer slices are left than are asked for,
            and what ``open_labelled``, ``close_asked`` and ``open_proposer`` raise.
    """
    if request.slices < 1 or (request.per_scan is not None and request.per_scan < 1):
        raise UsageError("E-ROUND-03", found=f"--slices {request.slices} --per-scan {request.per_scan}")
    given = request.output / GIVEN_FOLDER
    _require_own(request.output)
    dataset = scans.open_labelled(request.dataset, roots)
    proposer = None
    if request.model is not None:
        folder = given / _PREDICTIONS
        proposer = open_proposer(request.model, dataset, folder, roots, allow_code=request.allow_code)
    hidden = proposer.scored if proposer else frozenset()
    cases = scans.scans_to_label(dataset, hidden)
    if hidden:
        report(f"left out: {len(hidden)} scans that {request.model} is scored on")
    opened = scans.open_slices(dataset, cases)
    scans.close_asked(opened, request.beside)
    number = len(dataset.history().rounds)
    picks = _choose(request, dataset, proposer, {name: cases[name] for name in opened}, opened, number, roots)
    if len(picks) < request.slices:
        raise DataError("E-ROUND-04", number=len(picks), found=f"{len(picks)} of {request.slices}")
    made = _write(request, dataset, proposer, cases, picks, number)
    shutil.rmtree(given / _PREDICTIONS, ignore_errors=True)
    return made


def _require_own(folder: Path) -> None:
    """Refuse a folder with anything in it but what a killed command left."""
    known = folder.is_dir() and any(folder.iterdir())
    if folder.is_file() or (known and ((folder / ROUND_FILE).exists() or not (folder / GIVEN_FOLDER).is_dir())):
        raise DataError("E-ROUND-01", folder=folder, found=str(folder))
    (folder / GIVEN_FOLDER).mkdir(parents=True, exist_ok=True)
    sweep(folder)


def _choose(
    request: Request,
    dataset: LabelledDataset,
    proposer: Proposer | None,
    cases: dict[str, RawCase],
    opened: scoring.Open,
    number: int,
    roots: Roots,
) -> list[Pick]:
    seed = request.seed + number
    if proposer is None:
        return scoring.spread(opened, request.slices, seed, request.per_scan)
    proposer.predict(cases, roots.weights, request.device)
    scored = proposer.scores(cases, dataset)
    values = proposer.values()
    noise = scoring.gumbel(scored, list(values), seed) / scoring.beta_of(number)
    return scoring.choose(scored, values, request.slices, noise, opened, request.per_scan)


def _write(
    request: Request,
    dataset: LabelledDataset,
    proposer: Proposer | None,
    cases: dict[str, RawCase],
    picks: list[Pick],
    number: int,
) -> Round:
    asked = tuple(_asked(pick, cases[pick.case], dataset) for pick in picks)
    by_case: dict[str, list[AskedSlice]] = {}
    for one in sorted(asked, key=lambda one: (one.case, one.index)):
        by_case.setdefault(one.case, []).append(one)
    handed, sheet = {}, Sheet(dataset.scheme, dataset.plane)
    with Progress("hand over", len(by_case), unit="scan") as progress:
        for name, slices in by_case.items():
            scan = read_volume(cases[name].channels[0])
            labels = scans.labels_of(cases[name], scan, dataset.ignore)
            proposal = np.where(labels == dataset.ignore, proposer.labels(name) if proposer else 0, labels)
            handed[name] = _write_case(request.output, dataset, cases[name], scan, labels, proposal.astype(np.uint8))
            sheet.add(scan, proposal, slices)
            progress.advance(name)
    table = label_table(dataset.scheme)
    write_itksnap(request.output / ITKSNAP_FILE, table)
    write_text(request.output / TABLE_FILE, csv_text(_frame(asked, handed)))
    identity = digest_json([dataset.name, number, to_plain(handed), to_plain(asked)])[:12]
    run = proposer.trained.label if proposer else ""
    made = Round(dataset.name, identity, number, run, table, dataset.ignore, handed, asked)
    sheet.write(request.output, made)
    # Last: a folder without it is not handed over.
    write_json(made, request.output / ROUND_FILE)
    return made


def _asked(pick: Pick, case: RawCase, dataset: LabelledDataset) -> AskedSlice:
    """The slice with its place in mm along the patient's axis that it lies across."""
    grid = read_grid(case.channels[0])
    axis = scans.file_axis(case, dataset.plane)
    middle = [(size - 1) / 2 for size in grid.shape]
    middle[axis] = pick.index
    place = grid.matrix @ [*middle, 1.0]
    across = int(np.abs(grid.matrix[:3, axis]).argmax())
    score = None if pick.score is None else round(pick.score, 6)
    return AskedSlice(pick.case, pick.index, pick.reason, round(float(place[across]), 3), score)


def _write_case(
    folder: Path, dataset: LabelledDataset, case: RawCase, scan: Volume, labels: Labels, proposal: Labels
) -> HandedCase:
    """Copy the channels, and write the label map and the proposal twice: to be edited, and as they were given."""
    own, images = folder / SCANS_FOLDER / case.name, {}
    for path in case.channels:
        with atomic_path(own / path.name) as temporary:
            shutil.copyfile(path, temporary)
        images[path.name] = digest_voxels(read_volume(own / path.name))
    drawn = label_table(replace(dataset.scheme, ignore=None))
    for place in (own, folder / GIVEN_FOLDER / case.name):
        write_labels(place / f"{case.name}{MAP_ENDING}", labels, scan, label_table(dataset.scheme))
        write_segmentation(place / f"{case.name}{PROPOSAL_ENDING}", proposal, scan.grid, drawn)
    given = {
        f"{case.name}{ending}": digest_file(own / f"{case.name}{ending}") for ending in (MAP_ENDING, PROPOSAL_ENDING)
    }
    return HandedCase(dataset.plane, scans.file_axis(case, dataset.plane), images, given)


def _frame(asked: tuple[AskedSlice, ...], handed: dict[str, HandedCase]) -> pd.DataFrame:
    """One row a slice, in the order in which they were chosen; the number in ITK-SNAP counts from 1."""
    return pd.DataFrame(
        {
            "scan": one.case,
            "plane": handed[one.case].plane,
            "file_axis": "xyz"[handed[one.case].axis],
            "index_from_0": one.index,
            "number_from_1": one.index + 1,
            "position_mm": one.position,
            "reason": one.reason,
            "score": one.score,
        }
        for one in asked
    )
