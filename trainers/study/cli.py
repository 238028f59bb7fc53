"""samora_study: many runs of samora_train as one table, some at a time, and what came of them."""

from __future__ import annotations

import argparse
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from samora_pipeline.command_line import EXIT_FAILED_CASES, EXIT_OK, EXIT_OUT_OF_TIME, CommandParser, run, say

if TYPE_CHECKING:
    from trainers.study.processes import Launch

_EPILOG = """\
FILE.toml:
  dataset = "LA"
  seeds = [0, 1, 2]
  folds = [0, 1]                        # default: that of samora_train
  [options]                             # options of samora_train for all runs
  backbone = "samora_tiny"
  set = { "finetune.epochs" = 40 }
  [runs.samed]                          # a run: its own options; the first is the baseline
  trainer = "SAMedTrainer"
  split = "10pct"
  [runs.samora]
  trainer = "SAMoraTrainer"
  split = "10pct"

The same command resumes after any interruption. The state, the logs and the comparison lie in ROOT/studies/FILE.
"""
_HOUR = 3600.0
STUDIES_FOLDER = "studies"


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_study", "Train runs x seeds x folds, and compare them.", _EPILOG)
    parser.add_argument("file", type=Path, metavar="FILE.toml", help="the table of runs")
    parser.add_argument(
        *("-n", "--at-once"),
        type=_count,
        default=1,
        metavar="N",
        help="runs at a time, each with its share of cores, memory and CUDA_VISIBLE_DEVICES (default 1)",
    )
    parser.add_argument("--max-hours", type=float, metavar="H", help="then the runs save, and the study exits with 75")
    parser.add_argument("--dry-run", action="store_true", help="check every run, print the commands and stop")
    return parser


def main(argv: list[str] | None = None, launch: Launch | None = None) -> int:
    """Run the command and return its exit code: 3 when runs failed, 75 when some are left to be resumed."""
    return run(build_parser(), partial(study, launch=launch), argv)


def study(arguments: argparse.Namespace, launch: Launch | None = None) -> int:
    """One session: what is missing of the table is trained, then all that is scored is compared."""
    from samora_pipeline import resources
    from samora_pipeline.paths import resolve_roots
    from samora_pipeline.reproducibility import snapshot
    from trainers.study.processes import spawn
    from trainers.study.results import report
    from trainers.study.session import Limits, Session
    from trainers.study.state import StateFile, held
    from trainers.study.table import cells_of, read_table

    roots, table = resolve_roots(arguments.root), read_table(arguments.file)
    cells = cells_of(table, roots)
    if arguments.dry_run:
        say("\n".join(shlex.join(cell.words) for cell in cells))
        return EXIT_OK
    folder = roots.root / STUDIES_FOLDER / arguments.file.stem
    start = launch or spawn
    with held(folder) as lock:
        machine = {**snapshot(), "cores": str(resources.cores().value)}
        state = StateFile(folder, {"dataset": str(table.dataset)}, machine)
        limits = Limits(chunk=None if arguments.max_hours is None else _HOUR * arguments.max_hours)
        session = Session(folder, state, lock, limits, start, arguments.at_once)
        finished = session.run(cells)
        report(cells, state.state, folder, roots.root, lock, start)
    if session.failed(cells):
        return EXIT_FAILED_CASES
    return EXIT_OK if finished else EXIT_OUT_OF_TIME


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of runs")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
