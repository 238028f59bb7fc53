"""What all commands share: strict parsing, exit codes, errors without tracebacks, console logging."""

import argparse
import logging
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from samora_pipeline import resources
from samora_pipeline.errors import ResourceError, SamoraError, printable
from samora_pipeline.files import system_error
from samora_pipeline.registry import closest

EXIT_OK = 0
EXIT_BUG = 1
EXIT_FAILED_CASES = 3
EXIT_OUT_OF_TIME = 75
"""the session has used its time and saved: the same command with -c resumes (EX_TEMPFAIL of sysexits.h)"""
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""what a batch system sends before it takes a node away (Windows has no SIGUSR1)"""

_NO_MEMORY = ("can't allocate memory", "bad_alloc", "out of memory")
"""in the words of torch's allocators and of C++"""


class CommandParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that never abbreviates and carries the options every command has."""

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        as_written = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, description=description, epilog=epilog, allow_abbrev=False, formatter_class=as_written)
        self._exits = True
        self.add_argument("--root", metavar="DIR", help="data root (default: SAMORA_ROOT, else ./samora_data)")
        self.add_argument("--debug", action="store_true", help="show tracebacks")

    def usual(self, word: str) -> str:
        """An option as it is spelt here, for nnU-Net's spellings of it: ``--c``, ``-device``, ``--save_probabilities``,
        ``--fold`` of an option that is only called ``-f``. Any other word stays as it is.
        """
        name, equals, value = word.partition("=")
        if not name.startswith("-") or name in self._option_string_actions:
            return word
        plain = name.lstrip("-").replace("_", "-")
        known = self._spellings()
        return f"{known[plain]}{equals}{value}" if plain in known else word

    def _spellings(self) -> dict[str, str]:
        """Options without their dashes; also by what they set, singular and plural."""
        known: dict[str, str] = {}
        for action in self._actions:
            if action.option_strings:
                usual = [option for option in action.option_strings if not option.startswith("--no-")]
                longest = max(usual or action.option_strings, key=len)
                stem = action.dest.removesuffix("s").replace("_", "-")
                known |= dict.fromkeys((stem, f"{stem}s"), longest)
        return known | {option.lstrip("-"): option for option in self._option_string_actions}

    def by_name(self) -> dict[str, argparse.Action]:
        """The options by their names without dashes, and by what they set."""
        return {name: self._option_string_actions[option] for name, option in self._spellings().items()}

    def positional(self) -> list[argparse.Action]:
        """The arguments without a flag, in their order."""
        return [action for action in self._actions if not action.option_strings]

    def parsed(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words that no user typed: TypeError where they do not fit, instead of an exit."""
        self._exits = False
        return self.parse_args(words)

    def _print_message(self, message: str, file: Any = None) -> None:
        # Words that were typed, or that a shell took from the names of files.
        super()._print_message(printable(message), file)

    def error(self, message: str) -> NoReturn:
        """Refuse words that are no option, with those that are nearest."""
        if not self._exits:
            raise TypeError(f"{self.prog}: {message}")
        first, _, unknown = message.partition(": ")
        known = self._spellings()
        if first == "unrecognized arguments" and (meant := closest(unknown.split()[0].lstrip("-"), known)):
            message = f"{message} (did you mean {known[meant]}?)"
        super().error(message)


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Add ``--precision``, of the convolutions and matrix products of a network (``inference.precision``)."""
    parser.add_argument(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="of matrix products (default: auto; on a CPU, the faster one as timed on this machine)",
    )


def add_dask(parser: argparse.ArgumentParser) -> None:
    """Add ``--dask``, which has a cluster work on the cases (``parallel.Engine``)."""
    parser.add_argument(
        "--dask",
        metavar="ADDRESS",
        help="process the cases on this Dask cluster: tcp://HOST:PORT, or slurm:PARTITION[:JOBS], pbs:QUEUE[:JOBS] "
        "(extras: dask, jobqueue)",
    )


def run(
    parser: CommandParser, command: Callable[[argparse.Namespace], int | None], argv: list[str] | None = None
) -> int:
    """Parse ``argv`` and run ``command``; return its exit code (None counts as 0).

    Errors of ours go to stderr in their own words, and so does what the system refuses (a disk, memory); anything
    else is a bug of ours and exits with 1. SIGTERM ends the process with 143, SIGUSR1 with 138 and Ctrl-C with 130,
    after ``finally`` blocks have run; the training loop handles all three itself.
    """
    words = [parser.usual(word) for word in (sys.argv[1:] if argv is None else argv)]
    arguments = parser.parse_args(words)
    # Before anything numeric is imported, which counts the cores for itself.
    resources.limit_threads()
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(_PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[console])
    logging.getLogger("numexpr").setLevel(logging.WARNING)  # blosc2 brings it in; it announces its threads
    for number in STOP_SIGNALS:
        signal.signal(number, _leave)
    try:
        return command(arguments) or EXIT_OK
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return EXIT_OK
    except Exception as error:
        ours = as_ours(error)
        if ours is None or arguments.debug:
            sys.stderr.write(printable(traceback.format_exc()))
        if ours is None:
            sys.stderr.write("E-BUG-01 this is a fault in samora_pipeline; please report it with the text above\n")
            return EXIT_BUG
        ours.fix = corrected(parser.prog, words, ours) or ours.fix
        sys.stderr.write(f"{ours.text()}\n")
        return ours.exit_code


def as_ours(error: Exception) -> SamoraError | None:
    """An error of ours, or what the system refused as one; None for what can only be a fault of the program."""
    if isinstance(error, SamoraError):
        return error
    no_memory = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    if no_memory or isinstance(error, MemoryError):
        return ResourceError("E-MEM-03", found=(str(error).splitlines() or ["an allocation that failed"])[0])
    return system_error(error) if isinstance(error, OSError) and error.errno is not None else None


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def corrected(prog: str, words: Sequence[str], error: SamoraError) -> str:
    """The command as typed, with what was probably meant in place of the one word or part that is wrong."""
    if error.typo is None:
        return ""
    typed, meant = error.typo
    parts = [re.split("([=,])", word) for word in words]
    wrong = [
        (place, part)
        for place, split in enumerate(parts)
        for part, text in enumerate(split)
        # ``--set fusion.ordr=...`` stands for ``model.fusion.ordr``.
        if text and (text == typed or typed.endswith(f".{text}"))
    ]
    if len(wrong) != 1:
        return ""
    place, part = wrong[0]
    parts[place][part] = meant
    return shlex.join([prog, *("".join(split) for split in parts)])


def say(text: str = "") -> None:
    """Write a line of a command's result to standard output (progress and logs go to stderr)."""
    sys.stdout.write(f"{printable(text)}\n")
    sys.stdout.flush()


def aligned(rows: Sequence[Sequence[str]], between: str = "  ") -> list[str]:
    """The lines of a table whose rows have one length, with the columns below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [between.join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _leave(signal_number: int, _frame: object) -> None:
    raise SystemExit(128 + signal_number)
