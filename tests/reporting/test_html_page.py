from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest

from samora_pipeline.reporting import html_page
from samora_pipeline.reporting.html_blocks import Cell, Figure, Image, Note, Section, Table, Viewer
from samora_pipeline.reporting.html_page import Page, render_page
from tests.reporting.read_page import ReadPage

HOSTILE = "</script><!--<script>alert(1)</script>\u2028"
TINY = Image("data:image/png;base64,AAAA", 4, 4)


def page(*blocks: Table | Figure | Note | Viewer) -> Page:
    sections = (Section("case-list", blocks, "compared_cases", (HOSTILE, HOSTILE)),)
    return Page(HOSTILE, (HOSTILE,), ((HOSTILE, HOSTILE),), (HOSTILE,), (HOSTILE,), sections)


def viewer() -> Viewer:
    slices = tuple((f"{HOSTILE} {number}", f"data:scan{number}", "data:a", "data:b") for number in (1, 2))
    table = Table("inner", "t", ("h",), ((Cell("c"),),))
    return Viewer("v", "title", "caption", ("Scan", "A", "B"), 4, 4, slices, 1, (), table)


def test_policy_names_the_digests_of_the_only_style_and_script() -> None:
    read = ReadPage(render_page(page(viewer())))
    (policy,) = (own["content"] for own in read.all("meta") if own.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(read.raw[kind].encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    assert "unsafe" not in policy


def test_hostile_text_stays_text_everywhere() -> None:
    cells = (Cell(HOSTILE, HOSTILE, "one"), Cell("1.0", 1.0))
    table = Table("t", HOSTILE, (HOSTILE, "b"), (cells,), sortable=True, folded=True, notes=(HOSTILE,))
    read = ReadPage(render_page(page(table, Figure("f", TINY, HOSTILE, HOSTILE), Note(HOSTILE), viewer())))
    assert [own.get("type") for own in read.all("script")] == ["application/json", None]
    assert read.text.count("alert(1)") >= 10
    slices = json.loads(read.raw["slices"])
    assert slices["v"][0] == [f"{HOSTILE} 1", "data:scan1", "data:a", "data:b"]
    assert read.tables["t"][1][0] == HOSTILE.strip()


def test_the_slice_to_begin_with_is_there_without_a_script() -> None:
    shown = [own["src"] for own in ReadPage(render_page(page(viewer()))).all("img")]
    assert shown == ["data:scan2", "data:scan2", "data:a", "data:scan2", "data:b"]


def test_sortable_cells_carry_values_and_missing_ones_none() -> None:
    row = (Cell("x", "x"), Cell("0.500", 0.5), Cell("-", None))
    html = render_page(page(Table("t", "t", ("a", "b", "c"), (row,), sortable=True)))
    assert re.findall(r'data-value="([^"]*)"', html) == ["x", "0.5"]
    assert html.count('aria-sort="none"') == 3
    assert html.count('<button type="button">') == 3


@pytest.mark.parametrize("name", ["report.css", "report.js"])
def test_style_and_script_hold_no_address(name: str) -> None:
    text = (Path(html_page.__file__).with_name("templates") / name).read_text()
    assert not re.search(r"https?:|//\w|@import|url\(", text)
