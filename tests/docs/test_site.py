"""The pictures and generated pages of the documentation are those of their programs, and the site builds strictly."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]


def program(name: str) -> ModuleType:
    """A program of docs as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_method_is_up_to_date() -> None:
    module = program("method_figure")
    assert module.FIGURE.read_text(encoding="utf-8") == module.figure(), "python docs/method_figure.py  writes it anew"


def test_the_readme_fits_one_screen() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 75
