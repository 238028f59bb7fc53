"""What ``trainers`` does without: attributes reached by a computed name, and ladders over classes of settings."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Another checkout can be looked at: SAMORA_TRAINERS=OTHER/trainers python -m pytest tests/trainers/test_architecture.py
SOURCES = sorted(Path(os.environ.get("SAMORA_TRAINERS", Path(__file__).parents[2] / "trainers")).rglob("*.py"))
Check = Callable[[ast.AST], Iterator[int]]


def computed_names(tree: ast.AST) -> Iterator[int]:
    """Lines that reach an attribute whose name does not stand there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            names = {"getattr": node.args[1:2], "setattr": node.args[1:2], "attrgetter": node.args}
            if any(not isinstance(name, ast.Constant) for name in names.get(_called(node), ())):
                yield node.lineno


def ladders(tree: ast.AST) -> Iterator[int]:
    """Functions that test for classes of settings more than once, by ``isinstance`` or by the cases of a ``match``."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            tests = [
                node.args[1]
                for node in ast.walk(function)
                if isinstance(node, ast.Call) and _called(node) == "isinstance"
            ]
            tests += [node.cls for node in ast.walk(function) if isinstance(node, ast.MatchClass)]
            if sum(any(map(_is_settings, ast.walk(test))) for test in tests) > 1:
                yield function.lineno


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else ast.unparse(function)


def _is_settings(node: ast.AST) -> bool:
    return isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).endswith("Settings")


@pytest.mark.parametrize("check", [computed_names, ladders])
def test_settings_are_reached_by_name_and_kept_apart_by_their_class(check: Check) -> None:
    assert len(SOURCES) > 30
    found = {f"{path.name}:{line}" for path in SOURCES for line in check(ast.parse(path.read_text(encoding="utf-8")))}
    assert found == set()


@pytest.mark.parametrize(
    ("check", "source", "lines"),
    [
        (computed_names, "getattr(settings, stage)", [1]),
        (computed_names, "getattr(settings, f'expert_{level}').epochs", [1]),
        (computed_names, "x = 1\nsetattr(settings, name, 2)", [2]),
        (computed_names, "operator.attrgetter(*names)(settings)", [1]),
        (computed_names, "getattr(module, 'constant'), attrgetter('epochs')", []),
        (ladders, "def f(s):\n if isinstance(s, ASettings): pass\n elif isinstance(s, m.BSettings): pass", [1]),
        (ladders, "def f(s):\n match s:\n  case ASettings(): pass\n  case BSettings(): pass", [1]),
        (ladders, "def f(s):\n return isinstance(s, ASettings) or isinstance(s, Part)", []),
        (ladders, "def f(s):\n return isinstance(s, ASettings)\ndef g(s):\n return isinstance(s, BSettings)", []),
    ],
)
def test_what_the_checks_find(check: Check, source: str, lines: list[int]) -> None:
    assert list(check(ast.parse(source))) == lines
