"""The pictures and generated pages of the documentation are those of their programs, and the site builds strictly."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from samora_pipeline.contracts.json_io import read_json

ROOT = Path(__file__).parents[2]


def program(name: str) -> ModuleType:
    """A program of docs as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return program("site_hooks")


def test_the_picture_of_the_method_is_up_to_date() -> None:
    module = program("method_figure")
    assert module.FIGURE.read_text(encoding="utf-8") == module.figure(), "python docs/method_figure.py  writes it anew"


def test_the_readme_fits_one_screen() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 75


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="own_data/"' in start
    # Nothing is fetched from elsewhere when a page is opened.
    assert 'src="http' not in start
    python = (tmp_path / "site" / "reference" / "python" / "samora_pipeline.models" / "index.html").read_text("utf-8")
    assert 'id="samora_pipeline.models.lora.LoRA"' in python
    search = json.loads((tmp_path / "site" / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert any("HL-Attn" in entry["text"] for entry in search["docs"])


def test_every_page_is_in_the_navigation(hooks: ModuleType) -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = {line.rpartition(": ")[2] for line in navigation.splitlines() if line.endswith(".md")}
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")} | set(hooks.pages())


def test_every_command_is_in_the_reference(hooks: ModuleType) -> None:
    commands = hooks.reference.commands()
    assert {"samora_convert", "samora_train", "samora_predict"} < set(commands)
    page = hooks.pages()["reference/commands.md"]
    for name in commands:
        assert f"## {name}\n\n```text\nusage: {name} [-h]" in page
    assert "--skip-invalid" in page


def test_examples_of_files_are_read_by_their_readers(hooks: ModuleType, tmp_path: Path) -> None:
    for name, place in hooks.reference.FORMATS.items():
        if name == "dataset.json":
            # nnU-Net's keys, with a reader of its own.
            continue
        module, _, attribute = place.partition(":")
        kind = getattr(importlib.import_module(module), attribute)
        file = tmp_path / name
        file.write_text(json.dumps(hooks.reference.example(kind)), encoding="utf-8")
        value = read_json(kind, file)
        assert {field.name for field in dataclasses.fields(value)} <= set(hooks.reference.example(kind))


def test_links_from_above_lead_into_the_site(hooks: ModuleType) -> None:
    text = "[a](docs/results.md#b-c) [d](REPRODUCE.md) [e](benchmarks/README.md) [f](https://x.org) ![g](docs/h.svg)"
    expected = "[a](results.md#b-c) [d](reproduce.md) e [f](https://x.org) ![g](h.svg)"
    assert hooks.from_above(text) == expected
