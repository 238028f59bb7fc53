"""docs/errors.md is what the sources say, and a code means one thing."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("error_pages", ROOT / "docs" / "error_pages.py")
    assert spec is not None
    assert spec.loader is not None
    before = list(sys.path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def sources(pages: ModuleType) -> ModuleType:
    return sys.modules["error_sources"]


def test_the_page_is_up_to_date(pages: ModuleType) -> None:
    fresh = pages.page(pages.collect(ROOT))
    assert pages.PAGE.read_text(encoding="utf-8") == fresh, "python docs/error_pages.py  writes it anew"


def test_a_code_means_one_thing(pages: ModuleType) -> None:
    facts = pages.collect(ROOT)
    assert pages.ambiguous(facts) == {}
    unused = [code for code in pages.MEANINGS if code not in facts]
    assert unused == []


def test_every_code_of_the_sources_has_a_section(pages: ModuleType, sources: ModuleType) -> None:
    """A slower and plainer search: all texts that are a code, but for those that only ask whether an error has it."""
    literal = set()
    for package in sources.PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            asked = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in ast.walk(node)}
            literal |= {
                node.value
                for node in ast.walk(tree)
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in asked
                if sources.CODE.fullmatch(node.value)
            }
    assert len(literal) > 150
    page = pages.PAGE.read_text(encoding="utf-8")
    assert [code for code in sorted(literal) if f"\n## {code}\n" not in page] == []


def test_sentences_fixes_and_reasons_are_read_without_importing(sources: ModuleType, tmp_path: Path) -> None:
    package = tmp_path / "planners"
    package.mkdir()
    (package / "other.py").write_text('WAY = "read the manual"\n')
    (package / "one.py").write_text(
        '''
from planners.other import WAY

def check(case):
    """Look.

    Raises:
        DataError: ``E-ONE-01`` when it is broken, ``E-ONE-02`` twins. UsageError: ``E-ONE-03``.
    """
    raise DataError("E-ONE-01", f"the case {case.name} has {len(case.parts)} parts", fix=f"{WAY}; " + "or ask")

def again(case):
    raise _fault("E-ONE-01", case, "is twice here", fix="remove one")

def _fault(code, case, what, fix):
    return DataError(code, f'the case "{case}" {what}', fix=fix)

def chosen(many):
    code, what = "E-ONE-05", f"{len(many)} are wrong"
    return UsageError(code, what, fix="mend it")

found = [Remark("", "W-ONE-01", f"{name}: odd")]
say("E-ONE-04 this is a fault")
raise UsageError("E-ONE-03" if few else "E-ONE-02", "it is not so", expected=expected)
'''
    )
    facts = sources.collect(tmp_path)
    assert list(facts) == ["E-ONE-01", "E-ONE-02", "E-ONE-03", "E-ONE-04", "E-ONE-05", "W-ONE-01"]
    one = facts["E-ONE-01"]
    assert one.distinct("what") == ["the case {case name} has {number} parts", 'the case "{case}" is twice here']
    assert one.distinct("fix") == ["read the manual; or ask", "remove one"]
    assert one.when == ["when it is broken"]
    assert [site.kind for site in one.sites] == ["DataError", "DataError"]
    assert facts["E-ONE-03"].distinct("expected") == []
    assert (facts["E-ONE-05"].distinct("what"), facts["E-ONE-05"].sites[0].kind) == (
        ["{number} are wrong"],
        "UsageError",
    )
    assert facts["W-ONE-01"].distinct("what") == ["{name}: odd"]
    assert facts["E-ONE-04"].distinct("what") == ["this is a fault"]


def test_two_meanings_are_found(pages: ModuleType, sources: ModuleType) -> None:
    site = sources.Site("a", "DataError", {"what": "one"})
    other = sources.Site("b", "DataError", {"what": "two"})
    assert pages.ambiguous({"E-X-01": sources.CodeFacts([site, other])}) == {"E-X-01": ["one", "two"]}
    assert pages.ambiguous({"E-X-01": sources.CodeFacts([site, site])}) == {}
