"""Tables as Markdown, LaTeX and CSV: nothing is lost, nothing breaks the format, warnings go with all of them."""

from __future__ import annotations

from io import StringIO

import pandas as pd

from samora_pipeline.reporting.text_tables import TextTable, csv, document, escape, latex, markdown

TABLE = TextTable(
    "name",
    "Dice & more, 95 %",
    ("run_a", "Dice"),
    (("x|y", "79.41 ± 0.32"), ("SAMora, 10%", "-")),
    ("a note",),
    ("PHANTOM",),
)


def test_markdown_is_aligned_and_keeps_every_cell() -> None:
    lines = markdown(TABLE).splitlines()
    assert lines[0] == "> **PHANTOM**"
    rows = [line for line in lines if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1
    assert rows[2].split(" | ")[0].strip() == "| x\\|y"
    assert "- a note" in lines


def test_latex_escapes_all_it_would_stumble_over() -> None:
    text = latex(TABLE)
    assert r"\caption{\textbf{PHANTOM} Dice \& more, 95 \%}" in text
    assert r"x$|$y & 79.41 $\pm$ 0.32 \\" in text
    assert r"\textbf{run\_a} & \textbf{Dice} \\" in text
    assert text.count(r"\\" + "\n") == 3
    assert escape(r"\{~^") == r"\textbackslash{}\{\textasciitilde{}\textasciicircum{}"


def test_csv_reads_back_with_its_flags() -> None:
    frame = pd.read_csv(StringIO(csv(TABLE)))
    assert list(frame.columns) == ["run_a", "Dice", "warnings"]
    assert frame.iloc[1].tolist() == ["SAMora, 10%", "-", "PHANTOM"]


def test_without_flags_and_notes_there_is_nothing_of_them() -> None:
    plain = TextTable("name", "title", ("a",), (("1",),))
    assert markdown(plain).startswith("**title**")
    assert "warnings" not in csv(plain)
    assert document([plain, plain], "latex").count(r"\begin{table}") == 2
