"""Retired words are found nowhere: in code, options, reports, keys of JSON files, tests and documentation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_TEXTS = {".py", ".md", ".toml", ".j2", ".sh", ".json", ".js", ".css", ".html", ".txt", ".yml", ".cff"}
_ALLOWED = ("CHANGELOG.md", "tests/docs/test_words.py", "benchmarks/models/la_5pct_tiny/")
"""The history, this list itself, and an exported model, whose files are bound to their digests"""
# A space also stands for the end of a line, with the sign of a comment at the beginning of the next.
RETIRED = (
    *("sittings?", "(?:set|sets|setting)[ _-]aside", "stamps?", "stamped", "the house", "lets? in", "lets them in"),
    *("shows? what is scored", "rests? on the background", "asking", "answering", "crumbs?", "(?:told|tells?) apart"),
    *("telling slices?", r"(?<!model[\s_])cards?", "an? arm", "arms", "PretrainingCard", "ExpertsCard"),
)


def pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """Any of the words, whole, whatever lies between the parts of an expression."""
    joined = "|".join(words).replace(" ", r"(?:\s+(?:#\s*)?)")
    # Options and keys are joined with - and _, so that a part of a name counts as a word.
    return re.compile(rf"(?<![A-Za-z0-9])(?:{joined})(?![A-Za-z0-9])", re.IGNORECASE)


def tracked() -> list[Path]:
    """The texts of the repository; a copy without Git's data has no list of them."""
    if not (ROOT / ".git").exists():
        pytest.skip("draws its list of files from Git, and this copy has none")
    named = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = [ROOT / name for name in named.split("\0") if name and not name.startswith(_ALLOWED)]
    return [path for path in paths if path.suffix in _TEXTS and path.is_file()]


def found(text: str, words: re.Pattern[str]) -> list[str]:
    """The retired words of a text, each with its line."""
    return [
        f"{text.count(chr(10), 0, hit.start()) + 1}: {' '.join(hit.group().split())}" for hit in words.finditer(text)
    ]


def test_no_retired_word_is_left() -> None:
    words = pattern(RETIRED)
    hits = {
        path.relative_to(ROOT).as_posix(): lines
        for path in tracked()
        if (lines := found(path.read_text(encoding="utf-8"), words))
    }
    assert hits == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a case was set\naside here", ["1: set aside"]),
        ("# it shows what is\n# scored", ["1: shows what is # scored"]),
        ("--set-aside, set_aside", ["1: set-aside", "1: set_aside"]),
        ("one\nthe Cards of stage 1", ["2: Cards"]),
        ("an arm of the study", ["1: an arm"]),
        ("model card, MODEL_CARD.md, discard, timestamp, cardiac, warms up", []),
        ("data sets aside from these", ["1: sets aside"]),
    ],
)
def test_words_are_found_whole(text: str, expected: list[str]) -> None:
    assert found(text, pattern(RETIRED)) == expected


def test_the_glossary_has_twenty_terms_in_order() -> None:
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = [line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")][1:]
    assert len(terms) == 20
    assert terms == sorted(terms)
