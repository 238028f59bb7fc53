"""What all commands share: strict parsing, exit codes, errors without tracebacks, console logging."""

import argparse
import logging
import signal
import sys
import traceback
from collections.abc import Callable, Sequence

from samora_pipeline import resources
from samora_pipeline.errors import SamoraError

EXIT_OK = 0
EXIT_BUG = 1
EXIT_FAILED_CASES = 3


class CommandParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that never abbreviates and carries the options every command has."""

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, allow_abbrev=False, formatter_class=as_written)
        self.add_argument("--root", metavar="DIR", help="data root (default: SAMORA_ROOT, else ./samora_data)")
        self.add_argument("--debug", action="store_true", help="show tracebacks")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision``, of the convolutions and matrix products of a network (``inference.precision``)."""
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="of products (default: auto, on a CPU the faster one as timed here)",
    )


def run(
    parser: CommandParser, command: Callable[[argparse.Namespace], int | None], argv: list[str] | None = None
) -> int:
    """Parse ``argv`` and run ``command``; return its exit code (None counts as 0).

    Errors of ours go to stderr in their own words; anything else is a bug of ours and exits with 1. SIGTERM ends
    the process with 143 and Ctrl-C with 130, after ``finally`` blocks have run; the training loop handles both itself.
    """
    arguments = parser.parse_args(argv)
    # Before anything numeric is imported, which counts the cores for itself.
    resources.limit_threads()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # blosc2 brings it in; it announces its threads
    signal.signal(signal.SIGTERM, _leave)
    try:
        return command(arguments) or EXIT_OK
    except SamoraError as error:
        if arguments.debug:
            traceback.print_exc()
        sys.stderr.write(f"{error.text()}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return EXIT_OK
    except Exception:
        traceback.print_exc()
        sys.stderr.write("E-BUG-01 this is a fault in samora_pipeline; please report it with the text above\n")
        return EXIT_BUG


def say(text: str = "") -> None:
    """Write a line of a command's result to standard output (progress and logs go to stderr)."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def aligned(rows: Sequence[Sequence[str]], between: str = "  ") -> list[str]:
    """The lines of a table whose rows have one length, with the columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [between.join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _leave(signal_number: int, _frame: object) -> None:
    raise SystemExit(128 + signal_number)
