from __future__ import annotations

import csv
import io

import pandas as pd
import pytest

from samora_pipeline.errors import DataError, printable
from samora_pipeline.escaping import csv_text, markdown_text


@pytest.mark.parametrize("text", ["=cmd|calc!A0", "@SUM(A1)", "+1+cmd|' /C calc'!A0", "-2+HYPERLINK(1)", "\t=1"])
def test_a_spreadsheet_sees_a_formula_as_text(text: str) -> None:
    frame = pd.DataFrame({"case": [text], text: [1.5]})
    (header, row) = csv.reader(io.StringIO(csv_text(frame)))
    assert header == ["case", f"'{text}"]
    assert row == [f"'{text}", "1.5"]


def test_no_row_begins_within_a_text() -> None:
    assert csv_text(pd.DataFrame({"a": ["x\r=1"], "b": ["\r=1"]})) == "a,b\nx =1,' =1\n"


@pytest.mark.parametrize("text", ["-0.012 [-0.03, 0.01]", "-", "liver", "a=b", "+3 %", "1e-3"])
def test_numbers_and_names_stay_as_they_are(text: str) -> None:
    assert list(csv.reader(io.StringIO(csv_text(pd.DataFrame({"a": [text]}))))) == [["a"], [text]]


def test_missing_numbers_stay_empty() -> None:
    assert csv_text(pd.DataFrame({"a": ["x", "y"], "b": [None, -1.0]})) == "a,b\nx,\ny,-1.0\n"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("[x](javascript:alert(1))", "[x]\\(javascript:alert(1))"),
        ("[x][y]", "[x]\\[y]"),
        ("a|b`c", "a\\|b\\`c"),
        ("a\n# b", "a # b"),
        ("0.81 [0.72, 0.90]", "0.81 [0.72, 0.90]"),
        ("right_kidney", "right_kidney"),
    ],
)
def test_markdown_shows_a_text_and_does_nothing_with_it(text: str, written: str) -> None:
    assert markdown_text(text) == written


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[2Jb\x07\u202ec\udcff\x9bd\re\n\tf") == "a\\x1b[2Jb\\x07\\u202ec\\udcff\\x9bd\\re\n\tf"
    assert printable("é ü 日本 – plain") == "é ü 日本 – plain"


def test_the_text_of_an_error_is_printable() -> None:
    error = DataError("E-FILE-01", path="x\x1b]0;pwned\x07", found="404 \x1b[2J")
    assert "\x1b" not in error.text()
    assert "404 \\x1b[2J" in error.text()
    assert error.texts["found"] == "404 \x1b[2J"
