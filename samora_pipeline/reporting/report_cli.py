"""samora_report: one page about a run, or about two to four runs side by side."""

import argparse
from pathlib import Path

from samora_pipeline.command_line import EXIT_FAILED_CASES, EXIT_OK, CommandParser, run, say
from samora_pipeline.errors import UsageError

_EPILOG = """A RUN is a run or one of its folds (RUN/fold_K): a path, a name, or a unique part of a name.
The page is one file with everything in it: mail it, print it, or open it without a network. It shows scans of patients.

  samora_report Dataset001_Synapse/SAMoraTrainer__10pct__default
  samora_report Dataset001_Synapse/SAMedTrainer__10pct__default Dataset001_Synapse/SAMoraTrainer__10pct__default
"""
COMPARISON_FILE = "comparison.html"
_FAILURES_FILE = "failures.report.json"
"""beside the page, where other commands keep files of their own"""
_MOST_RUNS = 4


def build_parser() -> CommandParser:
    """The command's options."""
    parser = CommandParser("samora_report", "Write a report of a scored run, or of up to four side by side.", _EPILOG)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run, or two to four: the first is the baseline")
    parser.add_argument(
        "-o",
        dest="output",
        type=Path,
        metavar="FILE",
        help=f"default: RUN/report.html, with several runs ./{COMPARISON_FILE}",
    )
    parser.add_argument("--device", default="cpu", metavar="D", help="for attention and experts (default cpu)")
    parser.add_argument("--allow-code", action="store_true", help="accept runs with parts named package.module:X")
    return parser


def report(arguments: argparse.Namespace) -> int:
    """Read the runs and write the page; return the exit code: 3 when cases could not be read."""
    if len(arguments.runs) > _MOST_RUNS or (arguments.output is not None and arguments.output.suffix != ".html"):
        raise UsageError("E-ARG-21", found=f"{len(arguments.runs)} runs, -o {arguments.output}")
    import torch

    from samora_pipeline.contracts.failures import Failure, printable, write_failures
    from samora_pipeline.files import write_text
    from samora_pipeline.paths import resolve_roots
    from samora_pipeline.reporting.html_page import render_page
    from samora_pipeline.reporting.report import REPORT_FILE, make_page
    from samora_pipeline.reporting.report_comparison import comparison_page
    from samora_pipeline.reporting.report_run import open_run

    roots = resolve_roots(arguments.root)
    runs = [open_run(place, roots, allow_code=arguments.allow_code) for place in arguments.runs]
    device = torch.device(arguments.device)
    if len(runs) == 1:
        page, usual = make_page(runs[0], device), runs[0].scored.folder / REPORT_FILE
    else:
        page, usual = comparison_page(runs, device), Path(COMPARISON_FILE)
    path = arguments.output or usual
    write_text(path, render_page(page))
    failed = {name: error for run in runs for name, error in run.failed.items()}
    write_failures({name: Failure.of(name, error) for name, error in failed.items()}, path.with_name(_FAILURES_FILE))
    for name, error in failed.items():
        say(f"failed: {printable(name)}: {error.code} {error.what} ({error.found})")
    say(f"written: {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return EXIT_FAILED_CASES if failed else EXIT_OK


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``samora_report``."""
    return run(build_parser(), report, argv)


if __name__ == "__main__":
    raise SystemExit(main())
