"""failures.json: the cases that a command had to leave out, and why. The other cases are done; it ends with 3."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.contracts.json_io import write_json
from samora_pipeline.errors import SamoraError

FAILURES_FILE = "failures.json"


@dataclass(frozen=True)
class Failure:
    """Why a case was skipped, in the words of its error."""

    code: str
    what: str
    found: str = ""
    expected: str = ""
    fix: str = ""

    @classmethod
    def of(cls, case: str, error: BaseException) -> "Failure":
        """What an error says; of errors that are not ours, that the case can be neither read nor written."""
        if isinstance(error, SamoraError):
            return cls(**error.texts)
        if isinstance(error, MemoryError):
            return cls("E-MEM-02", f"memory does not hold the case {case}")
        return cls("E-IMG-07", f"the case {case} cannot be read or written", printable(str(error)))


@dataclass(frozen=True)
class Failures:
    """failures.json: the cases that could not be worked on. The file is absent when there are none."""

    cases: dict[str, Failure]
    schema_version: int = 1


def write_failures(failures: Mapping[str, Failure], path: Path) -> None:
    """Write failures.json atomically; without failures there is no such file afterwards."""
    if failures:
        write_json(Failures({printable(name): failure for name, failure in failures.items()}), path)
    else:
        path.unlink(missing_ok=True)


def printable(name: str) -> str:
    """A name as it can be shown and recorded: what is not printable, or not UTF-8, is escaped."""
    return name if name.isprintable() else repr(name)[1:-1]
