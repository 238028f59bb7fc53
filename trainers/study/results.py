"""What came of a study: a line per cell, and samora_compare's tables of the runs with the same label budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from samora_pipeline.command_line import aligned, say
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.contracts.scores import Summary
from samora_pipeline.files import write_text
from samora_pipeline.run_log import duration
from trainers.study.processes import Launch, run_command
from trainers.study.session import LOGS
from trainers.study.state import StudyState
from trainers.study.table import TrainedCell

CELLS_FILE = "cells.txt"


def report(
    cells: Sequence[TrainedCell], state: StudyState, folder: Path, root: Path, lock: int, launch: Launch
) -> None:
    """Say what is there and what is missing, and compare the runs of each label budget.

    A comparison takes the seeds that all its runs have finished on all folds; a run without any takes no part.
    """
    done = [cell for cell in cells if state.step(cell.name).status == "done"]
    rows = [("run", "seed", "fold", "status", "time", "Dice"), *(_row(cell, state) for cell in cells)]
    text = "\n".join(aligned(rows))
    write_text(folder / CELLS_FILE, f"{text}\n")
    say(text)
    if missing := [cell.name for cell in cells if cell not in done]:
        say(f"missing: {len(missing)} of {len(cells)} cells: {', '.join(missing)}; the same command resumes them")
    for split in dict.fromkeys(cell.request.split for cell in done):
        compared, left_out = complete([cell for cell in cells if cell.request.split == split], done)
        if left_out:
            say(f"not compared at {split}, because other cells of the same seed are missing: {', '.join(left_out)}")
        if len({cell.run for cell in compared}) > 1:
            _compare(compared, folder / f"compare_{split}", folder, root, lock, launch)


def complete(cells: Sequence[TrainedCell], done: Sequence[TrainedCell]) -> tuple[list[TrainedCell], list[str]]:
    """The cells that can be compared fairly, and the names of finished ones that cannot."""
    pairs = dict.fromkeys((cell.run, cell.request.seed) for cell in cells)
    whole = {pair for pair in pairs if all(c in done for c in cells if (c.run, c.request.seed) == pair)}
    runs = {run for run, _ in whole}
    seeds = {seed for _, seed in whole if all((run, seed) in whole for run in runs)}
    chosen = [cell for cell in cells if cell.run in runs and cell.request.seed in seeds]
    return chosen, [cell.name for cell in cells if cell in done and cell not in chosen]


def _row(cell: TrainedCell, state: StudyState) -> tuple[str, ...]:
    record = state.step(cell.name)
    dice = read_json(Summary, cell.summary).foreground_mean.Dice if record.status == "done" else None
    seed, fold = str(cell.request.seed), cell.folder.name.removeprefix("fold_")
    time = duration(record.seconds) if record.seconds else "-"
    return cell.run, seed, fold, record.status, time, "-" if dice is None else f"{dice:.4f}"


def _compare(cells: Sequence[TrainedCell], output: Path, folder: Path, root: Path, lock: int, launch: Launch) -> None:
    runs = list(dict.fromkeys(str(cell.folder.parent) for cell in cells))
    words = ["samora_compare", *runs, "--baseline", runs[0], "-o", str(output), "--root", str(root)]
    log = folder / LOGS / f"{output.name}.log"
    log.unlink(missing_ok=True)
    ended = run_command(words, log, lock, launch)
    if ended.code == 0:
        say(log.read_text(encoding="utf-8").partition("\n")[2].rstrip())
    else:
        say(f"samora_compare failed: {ended.tail} (see {log})")
