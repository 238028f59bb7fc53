"""The file of a study: runs x seeds x folds as a table of cells, each an ordinary run of samora_train."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samora_pipeline.calls import words_of
from samora_pipeline.contracts.json_io import parse
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, SUMMARY_FILE
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.paths import Roots
from trainers.cli import build_parser, requests_of
from trainers.pool.datasets import open_dataset
from trainers.runs.naming import fold_folder
from trainers.runs.request import Request
from trainers.runs.typed import check_typed
from trainers.study.state import Status

_OWN = ("dataset", "seed", "fold", "folds", "f", "name", "c", "resume", "root", "debug")
_NONE = ("dry_run", "fast_dev_run", "fast", "stage", "val")
"""what a run of a study cannot have: the options that the study gives, and those that score nothing"""
_ASSIGNMENTS = "set"


@dataclass(frozen=True)
class StudyTable:
    """The content of a study's file.

    ``runs`` are the options of samora_train by the name of a run, ``options`` those of all runs (a run's own win);
    both by the names that options have in Python, ``set`` a table of its own. Empty ``folds``: the dataset's default.
    """

    dataset: str | int
    runs: dict[str, dict[str, Any]]
    seeds: tuple[int, ...] = (0,)
    folds: tuple[str | int, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedCell:
    """One run with one seed on one fold: a step of the study's session."""

    run: str
    request: Request
    words: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """RUN/SEED/FOLD."""
        return f"{self.run}/s{self.request.seed}/{self.folder.name}"

    @property
    def summary(self) -> Path:
        """Its scores."""
        return self.folder / SUMMARY_FILE

    def commands(self) -> Iterator[list[str]]:
        """samora_train with ``-c``, which begins a run, resumes it, or scores one that is only trained."""
        yield list(self.words)

    def outcome(self) -> Status:
        """Done when it is scored, trained when the scored scans themselves are elsewhere."""
        if not (self.folder / FINAL_CHECKPOINT).is_file():
            return "failed"
        return "done" if self.summary.is_file() else "trained"


def read_table(path: Path) -> StudyTable:
    """Read a study's file.

    Raises:
        DataError: ``E-STUDY-18`` no TOML, ``E-JSON-03`` an unknown key or a wrong value.
        UsageError: ``E-STUDY-19`` no run, or an option that a study gives to its runs itself.
    """
    try:
        table = parse(StudyTable, tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError("E-STUDY-18", path=path, found=str(error)) from error
    sections = {"options": table.options, **{f"runs.{name}": options for name, options in table.runs.items()}}
    for section, options in sections.items():
        if wrong := [name for name in options if name.replace("-", "_") in (*_OWN, *_NONE)]:
            raise UsageError("E-STUDY-19", path=path, found=f"{', '.join(wrong)} in [{section}]")
    if not table.runs:
        raise UsageError("E-STUDY-19", path=path, found="no [runs.NAME]")
    return table


def cells_of(table: StudyTable, roots: Roots) -> list[TrainedCell]:
    """The cells, those of the first seed first; every word is checked as samora_train does.

    Raises:
        UsageError: ``E-STUDY-20`` an option that samora_train does not have, or whatever samora_train refuses.
        DataError: the dataset is not planned, or has no such fold or split.
    """
    default = open_dataset(str(table.dataset), roots)
    folds = [str(fold) for fold in table.folds] or [default.splits().default_fold]
    cells = []
    for seed in dict.fromkeys(table.seeds):
        for name, options in table.runs.items():
            for fold in dict.fromkeys(folds):
                words = _words(table, name, options, seed, fold, roots)
                (request,) = requests_of(build_parser().parsed(words))
                check_typed(request, roots)
                folder = fold_folder(request, roots.results / default.name, fold)
                cells.append(TrainedCell(name, request, ("samora_train", *words), folder))
    return cells


def _words(table: StudyTable, name: str, options: Mapping[str, Any], seed: int, fold: str, roots: Roots) -> list[str]:
    """The words of samora_train, without its name."""
    shared = {**table.options, **options}
    if _ASSIGNMENTS in shared:
        shared[_ASSIGNMENTS] = {**table.options.get(_ASSIGNMENTS, {}), **options.get(_ASSIGNMENTS, {})}
    own = {"dataset": table.dataset, "seed": seed, "fold": fold, "name": f"{name}-s{seed}", "c": True}
    try:
        words = words_of(build_parser(), {**own, **shared, "root": str(roots.root)})
        build_parser().parsed(words)
    except TypeError as error:
        raise UsageError("E-STUDY-20", run=name, found=str(error)) from error
    return words
