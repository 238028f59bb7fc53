"""The generated pages of the site: commands from the parsers, Python modules, files on disk from their dataclasses."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import json
import os
import re
import sys
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("samora_pipeline", "dataset_conversion", "planners", "trainers")
_COMMAND = re.compile(r'"(samora_\w+) = ([\w.]+):main"')
_WIDTH = "100"
_SECOND_LEVEL = {"samora_export": ("labels",)}
FORMATS = {
    "dataset.json": "samora_pipeline.contracts.dataset:DatasetJson",
    "samora.json": "samora_pipeline.contracts.dataset:SamoraJson",
    "integrity.json": "samora_pipeline.contracts.integrity:IntegrityReport",
    "dataset_fingerprint.json": "samora_pipeline.contracts.fingerprint:Fingerprint",
    "plans.json": "samora_pipeline.contracts.plans:Plans",
    "splits.json": "samora_pipeline.contracts.splits:Splits",
    "config.json": "samora_pipeline.contracts.run:RunConfig",
    "timing.json": "samora_pipeline.contracts.timing:Timing",
    "monitoring.json": "samora_pipeline.contracts.monitoring:MonitoringReport",
    "experts.json": "samora_pipeline.contracts.monitoring:ExpertsReport",
    "postprocessing.json": "samora_pipeline.contracts.postprocessing:PostProcessing",
    "summary.json": "samora_pipeline.contracts.scores:Summary",
    "failures.json": "samora_pipeline.contracts.failures:Failures",
    "model.json": "samora_pipeline.exported.contents:ModelJson",
}


def commands() -> dict[str, str]:
    """The module of each console script, in the order of setup.py."""
    return dict(_COMMAND.findall((ROOT / "setup.py").read_text(encoding="utf-8")))


def commands_page() -> str:
    """Every command with the text of its ``--help``."""
    parts = ["# Commands\n\nThe output of `--help` of every command, generated from its parser.\n"]
    for name, module in commands().items():
        for words in ([], *([word] for word in _SECOND_LEVEL.get(name, ()))):
            parts.append(f"## {' '.join([name, *words])}\n\n```text\n{help_of(module, words)}```\n")
    return "\n".join(parts)


def help_of(module: str, words: list[str]) -> str:
    """What a command prints for ``--help``, 100 columns wide."""
    text, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            importlib.import_module(module).main([*words, "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return text.getvalue()


def modules() -> dict[str, list[str]]:
    """The public modules of each package and subpackage that has a page."""
    found: dict[str, list[str]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            # An empty __init__ has nothing to show.
            if path.stat().st_size > 0:
                found.setdefault(".".join(parts[:2]) if len(parts) > 2 else package, []).append(name)
    return found


def module_page(title: str, names: list[str]) -> str:
    """The page of one package: mkdocstrings fills in each module."""
    return f"# {title}\n\n" + "\n".join(f"::: {name}\n" for name in names)


def formats_page() -> str:
    """Every JSON file with its fields and an example that its reader accepts."""
    parts = [
        "# File formats\n\nThe JSON files that the stages exchange. Each is one frozen dataclass with one reader; "
        "unknown keys are refused. The examples show the structure with placeholder values.\n"
    ]
    for name, place in FORMATS.items():
        module, _, attribute = place.partition(":")
        kind = getattr(importlib.import_module(module), attribute)
        doc = (kind.__doc__ or "").strip().splitlines()[0]
        example_text = json.dumps(example(kind), indent=2)
        parts.append(f"## {name}\n\n[`{attribute}`][{module}.{attribute}]: {doc}\n\n```json\n{example_text}\n```\n")
    return "\n".join(parts)


def example(kind: Any) -> Any:
    """A value in plain JSON types that has the structure of an annotated type."""
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(origin or kind):
        return dict(_fields(origin or kind, inner))
    if origin in (Union, types.UnionType):
        return example(next((one for one in inner if one is not type(None)), None))
    if origin is Literal:
        return inner[0]
    if origin in (tuple, list, frozenset) or (isinstance(origin, type) and issubclass(origin, Collection)):
        return _collection(origin, inner)
    plain = {str: "text", int: 1, float: 0.5, bool: True, Path: "folder/file", Any: None, None: None}
    if kind in plain:
        return plain[kind]
    return next(iter(kind)).value if isinstance(kind, type) and issubclass(kind, Enum) else "text"


def _collection(origin: Any, inner: tuple[Any, ...]) -> Any:
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {str(example(inner[0])): example(inner[1])}
    if origin is tuple and Ellipsis not in inner:
        return [example(one) for one in inner]
    return [example(inner[0])]


def _fields(kind: Any, arguments: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(kind)
    generic = dict(zip(getattr(kind, "__parameters__", ()), arguments, strict=False))
    for field in dataclasses.fields(kind):
        plain = isinstance(field.default, (str, int, float, bool))
        yield field.name, field.default if plain else example(generic.get(hints[field.name], hints[field.name]))


if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
