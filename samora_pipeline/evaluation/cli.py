"""samora_evaluate: score a folder of predictions, or sum up the folds of a run."""

import argparse
from pathlib import Path
from typing import get_args

from samora_pipeline.command_line import EXIT_FAILED_CASES, EXIT_OK, CommandParser, add_dask, run, say
from samora_pipeline.contracts.scores import NSD_TOLERANCE, Convention, Summary
from samora_pipeline.errors import SamoraError, UsageError

_EPILOG = """Two protocols are always computed. physical: distances in mm, absent organs left out and counted, a
missed organ has Dice 0. sam_family: voxels and the empty-mask rules of the TransUNet, SAMed and H-SAM code, which
the tables of the SAMora paper follow.

  samora_evaluate -g labelsTs -p preds
  samora_evaluate -g labelsTs -p preds --subset case_01,case_07
  samora_evaluate -g other_labels -p other_masks                     each label value by itself
  samora_evaluate -g other_labels -p other_masks --labels liver=1 spleen=2 both=1+2
  samora_evaluate --folds SAMoraTrainer__10pct__default
"""

_SUBSET_FILE = "summary_subset.json"
_FAILURES_FILE = "failures.evaluation.json"
"""beside failures.json, which samora_predict leaves in the same folder"""


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_evaluate", "Score predictions against reference labels.", _EPILOG)
    parser.add_argument("-g", dest="references", type=Path, metavar="LABELS", help="folder of reference labels")
    parser.add_argument("-p", dest="predictions", type=Path, metavar="PREDS", help="folder of predictions")
    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="L",
        help="a dataset.json (default: the one beside LABELS, in it or in PREDS, else each value by itself), or "
        "NAME=VALUE for each label",
    )
    parser.add_argument("--subset", metavar="NAME,...", help="score only these cases")
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help="default: PREDS/summary.json, with --subset summary_subset.json",
    )
    parser.add_argument("-np", dest="processes", type=int, metavar="N", help="worker processes (default 1)")
    add_dask(parser)
    parser.add_argument(
        "--tolerance",
        type=float,
        default=NSD_TOLERANCE,
        metavar="MM",
        help="of the surface Dice NSD (default %(default)g)",
    )
    parser.add_argument(
        "--convention",
        choices=get_args(Convention),
        default="medpy",
        help="of the distances in mm: medpy (default) pools both directions, monai takes the larger of both, deepmind "
        "weighs by surface area",
    )
    parser.add_argument(
        "--metric",
        dest="metrics",
        action="append",
        default=[],
        metavar="M",
        help="package.module:Class, a custom metric; may be repeated",
    )
    parser.add_argument("--folds", metavar="RUN", help="sum up fold_0, fold_1, ... of a run, one row per case")
    return parser


def evaluate(arguments: argparse.Namespace) -> int:
    """Score, print the tables, write summary.json and the CSV; return the exit code: 3 when cases were skipped."""
    _check(arguments)
    from samora_pipeline.contracts.failures import Failure, printable, write_failures
    from samora_pipeline.contracts.run import SUMMARY_FILE
    from samora_pipeline.evaluation.tables import render, write_summary

    folder = _folder(arguments)
    output = arguments.output or folder / (_SUBSET_FILE if arguments.subset else SUMMARY_FILE)
    failed: dict[str, SamoraError] = {}
    summary = _summary(arguments, folder, failed)
    table = write_summary(summary, output)
    write_failures({name: Failure.of(name, error) for name, error in failed.items()}, output.with_name(_FAILURES_FILE))
    say(render(summary))
    for name, error in failed.items():
        say(f"failed: {printable(name)}: {error.code} {error.what} ({error.found})")
    say(f"\nwritten: {output}, {table}")
    return EXIT_FAILED_CASES if failed else EXIT_OK


def scored(arguments: argparse.Namespace) -> Summary:
    """Score and return the summary, which is written where a file is named."""
    _check(arguments)
    summary = _summary(arguments, _folder(arguments))
    if arguments.output is not None:
        from samora_pipeline.evaluation.tables import write_summary

        write_summary(summary, arguments.output)
    return summary


def _folder(arguments: argparse.Namespace) -> Path:
    folder: Path = _named(arguments) if arguments.folds else arguments.predictions
    return folder


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``samora_evaluate``."""
    return run(build_parser(), evaluate, argv)


def _check(arguments: argparse.Namespace) -> None:
    scoring = (arguments.references, arguments.predictions)
    complete = not any(scoring) if arguments.folds else all(scoring)
    output_fits = arguments.output is None or arguments.output.suffix == ".json"
    if complete and output_fits and arguments.tolerance > 0:
        return
    raise UsageError("E-ARG-05")


def _named(arguments: argparse.Namespace) -> Path:
    """The run of ``--folds``; a name that is none is refused when its folds are looked for."""
    from samora_pipeline.contracts.run_folders import FOLD_PREFIX, find_run_folder
    from samora_pipeline.paths import resolve_roots

    results = resolve_roots(arguments.root).results
    found = find_run_folder(arguments.folds, results, lambda run: any(run.glob(f"{FOLD_PREFIX}[0-9]*")))
    return found or Path(arguments.folds)


def _subset(text: str | None) -> tuple[str, ...] | None:
    names = None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())
    if names == ():
        raise UsageError("E-ARG-22")
    return names


def _summary(arguments: argparse.Namespace, folder: Path, failed: dict[str, SamoraError] | None = None) -> Summary:
    from samora_pipeline.evaluation.summary import named_labels, score_folder, sum_up_folds
    from samora_pipeline.parallel import Engine

    if arguments.folds:
        return sum_up_folds(folder)
    words = arguments.labels or []
    labels = Path(words[0]) if len(words) == 1 and "=" not in words[0] else named_labels(words) if words else None
    return score_folder(
        arguments.references,
        arguments.predictions,
        labels,
        tolerance=arguments.tolerance,
        engine=Engine.of(arguments.processes, arguments.dask),
        convention=arguments.convention,
        metrics=tuple(arguments.metrics),
        subset=_subset(arguments.subset),
        failed=failed,
    )


if __name__ == "__main__":
    raise SystemExit(main())
