"""A scored run with all that a report needs beside its scores: where its folds lie, and where its scans may lie."""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.dataset import RawCase, read_dataset
from samora_pipeline.contracts.run import CONFIG_FILE, VALIDATION_FOLDER, RunConfig
from samora_pipeline.contracts.stored_case import SLICES_FOLDER
from samora_pipeline.errors import DataError, SamoraError
from samora_pipeline.evaluation.run_scores import ScoredRun, read_run
from samora_pipeline.paths import Roots
from samora_pipeline.reporting.html_blocks import Block, Note, Section

LOG_FILE = "log.jsonl"
PRETRAINING_FOLDER = "pretraining"
_FOLDERS = re.compile(r"(?:[A-Za-z]:)?[\\/](?:[^\s\\/:]+[\\/])+")


@dataclass(frozen=True)
class Places:
    """Folders that a report reads beside the run's own. Whatever is not there is left out of it, in words."""

    raw: Path
    preprocessed: Path
    pretraining: Path
    weights: Path

    @property
    def slices(self) -> Path:
        """The folder of the stored cases."""
        return self.preprocessed / SLICES_FOLDER


@dataclass(frozen=True)
class ReportedRun:
    """A scored run and its places; ``allow_code``: its network may be built from code that its config names.

    ``failed`` takes the cases whose files are there and cannot be used, while the report is made.
    """

    scored: ScoredRun
    places: Places
    allow_code: bool = False
    failed: dict[str, SamoraError] = field(default_factory=dict, compare=False)

    @property
    def label(self) -> str:
        """The run's name in tables."""
        return self.scored.label

    @property
    def config(self) -> RunConfig:
        """The config of the first fold."""
        return self.scored.config

    @cached_property
    def folds(self) -> dict[str, Path]:
        """The folders of the scored folds by name."""
        folder = self.scored.folder
        alone = (folder / CONFIG_FILE).is_file()
        return {fold: folder if alone else folder / f"fold_{fold}" for fold in self.scored.folds}

    def fold_of(self, case: str) -> str:
        """The fold that scored a case."""
        row = next(row for row in self.scored.summary.metric_per_case if row.case == case)
        return row.fold if row.fold in self.folds else next(iter(self.folds))

    def prediction(self, case: str) -> Path:
        """The label map that was scored."""
        return self.folds[self.fold_of(case)] / VALIDATION_FOLDER / f"{case}{self.config.file_ending}"

    @cached_property
    def raw_cases(self) -> dict[str, RawCase]:
        """The scored cases whose scans and references are there.

        Raises:
            DataError: ``E-DATA-01`` no raw dataset.
        """
        raw = read_dataset(self.places.raw)
        found = raw.scan("imagesTr")[0] | raw.scan("imagesTs")[0]
        scored = (row.case for row in self.scored.summary.metric_per_case)
        return {name: found[name] for name in scored if name in found and found[name].label is not None}

    def raw_case(self, name: str) -> RawCase:
        """The scan and the reference of a scored case.

        Raises:
            DataError: ``E-REPORT-01`` they are not there.
        """
        if name not in self.raw_cases:
            raise DataError("E-REPORT-01", name=name, found=str(self.places.raw))
        return self.raw_cases[name]

    @contextmanager
    def reading(self, case: str) -> Iterator[None]:
        """Remember a case whose files cannot be used; that files are not here, as of a run from elsewhere, is no fault.

        Raises:
            SamoraError: what was wrong, in any case.
        """
        try:
            yield
        except SamoraError as error:
            if error.code != "E-IMG-01":
                self.failed[case] = error
            raise

    def log(self, fold: str) -> list[dict[str, Any]]:
        """The epoch lines of a fold's fine-tuning; empty where there is no log."""
        return read_log(self.folds[fold] / LOG_FILE)


def open_run(place: str, roots: Roots, *, allow_code: bool = False) -> ReportedRun:
    """Read a run folder or a fold folder, given as a path or below the results folder.

    Raises:
        AssetError: ``E-CMP-01`` when nothing there is a scored run. Others as ``read_run``.
    """
    scored = read_run(place, roots.results, allow_code=allow_code)
    dataset = scored.config.dataset
    pretraining = roots.results / dataset / PRETRAINING_FOLDER
    places = Places(roots.raw / dataset, roots.preprocessed / dataset, pretraining, roots.weights)
    return ReportedRun(scored, places, allow_code)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read log.jsonl; a last line that was cut short by a kill is left out.

    Raises:
        DataError: ``E-REPORT-02`` another line is no JSON object.
    """
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError("E-REPORT-02", path=path, found=f"line {number} of {path}") from error
        if not isinstance(record, dict):
            raise DataError("E-REPORT-02", path=path, found=f"line {number} of {path}")
        records.append(record)
    return records


def section_or_reason(name: str, make: Callable[[], Section]) -> Section:
    """The section, or one that says in the error's words why it is left out. Errors that are faults of ours pass."""
    try:
        return make()
    except SamoraError as error:
        return Section(name, (Note(reason(error)),), "left_out")


def blocks_or_reason(make: Callable[[], Iterable[Block]]) -> list[Block]:
    """The blocks, or one that says in the error's words why they are left out."""
    try:
        return list(make())
    except SamoraError as error:
        return [Note(f"Left out: {reason(error)}")]


def reason(error: SamoraError) -> str:
    """An error as a sentence, without the folders of this machine: a report is sent to others."""
    return f"{_FOLDERS.sub('', error.what)} ({error.code})."
