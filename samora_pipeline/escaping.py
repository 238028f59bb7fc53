"""Texts from data, written so that no spreadsheet and no Markdown viewer takes them for commands."""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"[=+\-@\t\r]")
# Numbers, and numbers with their intervals: nothing that is made of these alone can call anything.
_NUMBERS = re.compile(r"[-+0-9.eE,;()\[\] %]*")
_MARKDOWN = {"<": "&lt;", "](": "]\\(", "][": "]\\[", "|": "\\|", "`": "\\`", "\\": "\\\\", "\n": " ", "\r": " "}
_ACTIVE = re.compile("|".join(map(re.escape, _MARKDOWN)))


def csv_text(frame: "pd.DataFrame") -> str:
    """The table as CSV; a text that a spreadsheet would take for a formula is led by an apostrophe (OWASP)."""
    safe = frame.rename(columns=_cell)
    text: str = safe.apply(lambda column: column.map(_cell)).to_csv(index=False)
    return text


def markdown_text(text: str) -> str:
    """The text for the inside of a line or of a cell: tags, links, code and ends of cells are written out."""
    return _ACTIVE.sub(lambda match: _MARKDOWN[match[0]], text)


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # A carriage return alone begins a row for some readers.
    text = value.replace("\r", " ")
    return f"'{text}" if _FORMULA.match(value) and not _NUMBERS.fullmatch(text) else text
