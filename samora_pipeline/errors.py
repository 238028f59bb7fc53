"""The errors a user can meet. Each says what, found, expected and the command that fixes it.

Exit codes (the contract of every command): 0 ok, 1 our bug, 2 usage, 3 finished with failed cases,
4 data or contract, 5 missing asset, 6 resources.
"""

import re
import tomllib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class Entry:
    """What one code says: templates that ``str.format`` completes with the values of the place that raises it."""

    what: str
    expected: str = ""
    fix: str = ""


# What a terminal obeys or that turns the direction of writing, and halves of characters, which cannot be written.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters written out (``\\x1b``); line ends and tabs stay."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def _read_table() -> dict[str, Entry]:
    plain = tomllib.loads(Path(__file__).with_name("errors.toml").read_text(encoding="utf-8"))
    return {code: Entry(**texts) for code, texts in plain.items()}


ERRORS: dict[str, Entry] = _read_table()
"""The table of codes, ``errors.toml``."""


class SamoraError(Exception):
    """Base of all errors that a user can mend; the command prints it without a traceback.

    ``code`` is stable (``E-SPLIT-04``) and is what documentation and tests refer to; ``what`` is one sentence.
    Parts that are not given are those of ``ERRORS[code]``, completed with ``values``: ``DataError("E-CKPT-01",
    path=path, found=...)``. Empty parts are left out of the text. ``typo`` is what was typed and what was
    probably meant by it: the command then offers itself, corrected, as the fix.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        code: str,
        what: str | None = None,
        *,
        found: str = "",
        expected: str | None = None,
        fix: str | None = None,
        typo: tuple[str, str] | None = None,
        **values: object,
    ) -> None:
        entry = ERRORS[code] if what is None else ERRORS.get(code, Entry(what))
        self.code = code
        self.what = entry.what.format(**values) if what is None else what
        self.found = found
        self.expected = entry.expected.format(**values) if expected is None else expected
        self.fix = entry.fix.format(**values) if fix is None else fix
        self.typo = typo
        super().__init__(self.text())

    def text(self) -> str:
        """Return the message as printed: the sentence first, then found, expected and fix on lines of their own.

        What comes from files and servers is made ``printable``.
        """
        parts = (("found", self.found), ("expected", self.expected), ("fix", self.fix))
        lines = [f"{self.code} {self.what}", *(f"  {name}: {value}" for name, value in parts if value)]
        return printable("\n".join(lines))

    @property
    def texts(self) -> dict[str, str]:
        """Code and parts by name, as they are recorded in JSON files."""
        return {name: getattr(self, name) for name in ("code", "what", "found", "expected", "fix")}

    def __reduce__(self) -> tuple[object, ...]:
        # Worker processes send errors back pickled; keyword-only arguments need help to survive that.
        parts = {"found": self.found, "expected": self.expected, "fix": self.fix}
        return partial(type(self), self.code, self.what, typo=self.typo, **parts), ()


class UsageError(SamoraError):
    """The command line or an argument is wrong."""

    exit_code = 2


class FailedCasesError(SamoraError):
    """The work was finished, but some cases had to be skipped."""

    exit_code = 3


class DataError(SamoraError):
    """A file, a folder or a value breaks its contract."""

    exit_code = 4


class AssetError(SamoraError):
    """Something that must be fetched or added first (weights, a trained run) is missing."""

    exit_code = 5


class ResourceError(SamoraError):
    """Memory, disk or a device is not enough."""

    exit_code = 6
