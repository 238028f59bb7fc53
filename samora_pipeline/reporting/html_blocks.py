"""What a report is made of: sections of figures, tables, notes and viewers, all plain data.

Whatever text is put into them is escaped when the page is made, so names from users' files may hold anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Image:
    """A picture as a ``data:`` address, with its size in CSS pixels."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class Cell:
    """One cell of a table: what is shown, what it is sorted by (None: last), and the place on the page it leads to."""

    text: str
    value: float | str | None = None
    target: str = ""


Value = Cell | str | int | float | None
"""of a cell: a text or a number that is shown and sorted as it is, or None for a dash that is sorted last"""


@dataclass(frozen=True)
class Table:
    """Rows of values under a header; the first of a row names it, floats are shown in ``digits`` digits.

    ``folded`` ones are opened by the reader.
    """

    name: str
    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Value]]
    sortable: bool = False
    folded: bool = False
    notes: Sequence[str] = ()
    digits: int = 3


@dataclass(frozen=True)
class Swatch:
    """An entry of a legend: a colour, and whether it fills with stripes."""

    colour: str
    text: str
    striped: bool = False


@dataclass(frozen=True)
class Legend:
    """What the colours of a picture stand for."""

    title: str
    entries: tuple[Swatch, ...]


@dataclass(frozen=True)
class Figure:
    """A picture. ``alt`` says in words what it shows, ``caption`` how to read it."""

    name: str
    image: Image
    alt: str
    caption: str
    legends: tuple[Legend, ...] = ()


@dataclass(frozen=True)
class Note:
    """A sentence."""

    text: str


@dataclass(frozen=True)
class Viewer:
    """Panels of one case side by side, and a slider through its slices. ``start`` is the index shown first.

    A slice: its number and place in words, the scan, and one transparent overlay for each panel after it.
    """

    name: str
    title: str
    caption: str
    panels: tuple[str, ...]
    width: int
    height: int
    slices: tuple[tuple[str, ...], ...]
    start: int
    legends: tuple[Legend, ...]
    table: Table


Block = Figure | Table | Note | Viewer


@dataclass(frozen=True)
class Section:
    """A part of the page.

    What it shows, what good and bad look like and what to do about it stand in ``sections.html.j2`` under
    ``text`` (by default the section's own name), where ``words`` fill the gaps.
    """

    name: str
    blocks: Sequence[Block]
    text: str = ""
    words: Sequence[str] = ()


def cell(value: Value, digits: int) -> Cell:
    """A value as the cell that shows it."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell("-")
    text = f"{value:.{digits}f}" if isinstance(value, float) else str(value)
    return Cell(text, float(value) if isinstance(value, int | float) else value)
