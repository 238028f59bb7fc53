"""The values that the SAMora paper reports, as printed in its tables, and the mistakes found in them.

``reported.json`` beside this file is their only home. A correction says for which tables, rows and columns it holds,
and why; organs that stand under another organ's heading are given under their own.
"""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from samora_pipeline.contracts.json_io import read_json

_FILE = Path(__file__).with_name("reported.json")


@dataclass(frozen=True)
class ReportedRow:
    """One printed row: its key and its values, None where the paper has a dash."""

    key: tuple[str, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class ReportedTable:
    """One table, with the dataset, the label budget or both that it is about (``setting``), if all of it is.

    A part of another table has no rows of its own; ``named_there`` maps its columns to the other's, and ``left_out``
    are the keys of the other's rows that it does not print.
    """

    number: int
    caption: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    setting: str = ""
    rows: tuple[ReportedRow, ...] = ()
    part_of: int | None = None
    named_there: dict[str, str] = field(default_factory=dict)
    left_out: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Correction:
    """A mistake or a gap in the printed tables, with its reason.

    Without ``rows`` or ``columns`` it concerns all. ``holds`` maps a printed column to the one whose value it holds.
    ``also`` gives a second value that is quoted beside the printed one.
    """

    name: str
    tables: tuple[int, ...]
    reason: str
    rows: tuple[tuple[str, ...], ...] = ()
    columns: tuple[str, ...] = ()
    holds: dict[str, str] = field(default_factory=dict)
    also: dict[str, float] = field(default_factory=dict)

    def covers(self, column: str) -> bool:
        """Whether the correction is about this column."""
        narrowed = {*self.columns, *self.holds.values(), *self.also}
        return not narrowed or column in narrowed


@dataclass(frozen=True)
class ReportedFile:
    """The content of reported.json."""

    source: str
    tables: tuple[ReportedTable, ...]
    corrections: tuple[Correction, ...]
    schema_version: int = 1


@dataclass(frozen=True)
class Reported:
    """One value, after correction of its column; ``also`` is a second value, ``notes`` are reasons to print below."""

    value: float
    also: float | None = None
    notes: tuple[str, ...] = ()


@cache
def reported_file() -> ReportedFile:
    """Read reported.json."""
    return read_json(ReportedFile, _FILE)


def reported_table(number: int) -> ReportedTable:
    """Return a table of the paper; KeyError for one without results (7 and 8 are settings)."""
    return {table.number: table for table in reported_file().tables}[number]


def reported_keys(number: int) -> tuple[tuple[str, ...], ...]:
    """Return the keys of the rows that table ``number`` prints, in its order; KeyError as in ``reported_table``."""
    table = reported_table(number)
    source = reported_table(table.part_of) if table.part_of is not None else table
    return tuple(row.key for row in source.rows if row.key not in table.left_out)


def reported(number: int, key: tuple[str, ...], column: str) -> Reported | None:
    """Return what table ``number`` reports in the row with this key under ``column``; None where it has nothing."""
    table = reported_table(number)
    source = reported_table(table.part_of) if table.part_of is not None else table
    row = next((row for row in source.rows if row.key == key), None)
    if row is None:
        return None
    own = [one for one in reported_file().corrections if number in one.tables and (not one.rows or key in one.rows)]
    name = table.named_there.get(column, column)
    for correction in own:
        name = next((printed for printed, held in correction.holds.items() if held == name), name)
    if name not in source.columns or (value := row.values[source.columns.index(name)]) is None:
        return None
    notes = tuple(one.reason for one in own if one.covers(column))
    also = next((one.also[column] for one in own if column in one.also), None)
    return Reported(value, also, notes)
