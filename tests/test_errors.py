"""The table of codes: texts are completed, and every place that raises a code gives the values its texts need."""

from __future__ import annotations

import ast
import pickle
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

from samora_pipeline import errors
from samora_pipeline.errors import ERRORS, DataError, SamoraError

ROOT = Path(__file__).parents[1]
PACKAGES = ("samora_pipeline", "dataset_conversion", "planners", "trainers")
PARTS = ("what", "expected", "fix")


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every call of an error class with a code."""
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                kind, code = getattr(errors, node.func.id, None), node.args[0]
                if isinstance(kind, type) and issubclass(kind, SamoraError) and isinstance(code, ast.Constant):
                    yield str(code.value), node


def placeholders(text: str) -> set[str]:
    return {name.split(".")[0].split("[")[0] for _, name, _, _ in string.Formatter().parse(text) if name}


def test_every_place_gives_the_values_that_its_texts_need() -> None:
    wrong: list[tuple[str, object]] = []
    for code, call in calls():
        given = {keyword.arg or "**" for keyword in call.keywords}
        own = given | ({"what"} if len(call.args) > 1 else set())
        entry = ERRORS.get(code)
        if entry is None and "what" not in own:
            wrong.append((code, "no entry"))
        needed = set().union(*(placeholders(getattr(entry, part)) for part in PARTS if entry and part not in own))
        if needed - given or given - needed - {*PARTS, "found", "typo", "**"}:
            wrong.append((code, sorted(needed ^ (given - {*PARTS, "found", "typo"}))))
    assert wrong == []


def test_every_entry_is_raised_and_says_something() -> None:
    raised = {code for code, _ in calls()}
    assert [code for code in ERRORS if code not in raised] == []
    assert all(entry.what for entry in ERRORS.values())


def test_texts_of_the_table_are_completed_and_own_ones_win() -> None:
    error = DataError("E-CKPT-02", path=Path("a/b.safetensors"), found="cut")
    assert error.what == "b.safetensors is damaged or was not written by this tool"
    assert (error.found, error.expected, error.fix) == ("cut", ERRORS["E-CKPT-02"].expected, ERRORS["E-CKPT-02"].fix)
    own = DataError("E-CKPT-02", "gone", expected="", fix="look")
    assert own.text() == "E-CKPT-02 gone\n  fix: look"


def test_an_error_survives_the_way_between_processes() -> None:
    error = DataError("E-CKPT-02", path=Path("a.b"), found="cut")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.text()) == (DataError, error.text())


def test_a_code_without_entry_needs_its_sentence() -> None:
    with pytest.raises(KeyError):
        DataError("E-NONE-01", found="x")
