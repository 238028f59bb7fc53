"""A table of text as Markdown, LaTeX or CSV, with its stamps and notes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from samora_pipeline.evaluation.tables import aligned

Format = Literal["md", "latex", "csv"]

_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    # Text fonts of the old encoding print other letters in place of these.
    **{letter: f"${letter}$" for letter in "<>|"},
    "±": r"$\pm$",
    "✓": r"$\checkmark$",
    "×": r"$\times$",
}


@dataclass(frozen=True)
class TextTable:
    """Rows of text under a header. ``name`` is that of its file, ``stamps`` (such as PHANTOM) go with it everywhere."""

    name: str
    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    stamps: tuple[str, ...] = ()


def markdown(table: TextTable) -> str:
    """The table in Markdown, columns aligned so that it reads well in a terminal too."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in (table.header, *table.rows)]
    first, *lines = aligned([["", *line, ""] for line in cells], " | ")
    rule = re.sub(r"[^|]", "-", first.strip())
    blocks = [f"**{table.title}**", "\n".join(line.strip() for line in (first, rule, *lines))]
    if table.stamps:
        blocks.insert(0, f"> **{' | '.join(table.stamps)}**")
    blocks += ["\n".join(f"- {note}" for note in table.notes)] * bool(table.notes)
    return "\n\n".join(blocks) + "\n"


def latex(table: TextTable) -> str:
    """The table as a LaTeX float that needs no package but amssymb (for check marks)."""
    stamps = rf"\textbf{{{escape(' | '.join(table.stamps))}}} " if table.stamps else ""
    body = [" & ".join(escape(cell) for cell in line) + r" \\" for line in table.rows]
    notes = [rf"\par\footnotesize {escape(note)}" for note in table.notes]
    head = " & ".join(rf"\textbf{{{escape(cell)}}}" for cell in table.header) + r" \\"
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{stamps}{escape(table.title)}}}",
        rf"\begin{{tabular}}{{{'l' * len(table.header)}}}",
        r"\hline",
        head,
        r"\hline",
        *body,
        r"\hline",
        r"\end{tabular}",
        *notes,
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def csv(table: TextTable) -> str:
    """The table as CSV; the stamps are a column, because a row may be copied without its heading."""
    frame = pd.DataFrame(table.rows, columns=list(table.header))
    if table.stamps:
        frame["stamps"] = " | ".join(table.stamps)
    return frame.to_csv(index=False)


def document(tables: Sequence[TextTable], form: Format) -> str:
    """All tables one after another in one text."""
    write = {"md": markdown, "latex": latex, "csv": csv}[form]
    return "\n".join(write(table) for table in tables)


def escape(text: str) -> str:
    """Text with everything that LaTeX would take as a command written out."""
    return "".join(_LATEX.get(letter, letter) for letter in text)
