"""Probes of what is installed: Python, the required packages, and whether torch and torchvision fit together."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Iterator

from samora_pipeline.doctor.findings import Finding

_PACKAGE = "samora_pipeline"
_PYTHON = (3, 11)
# torchvision 0.(n + 15) is built against torch 2.n.
_OFFSET = 15
_ONE_INDEX = "pip install --force-reinstall torch torchvision  from one index (pytorch.org names it for your machine)"
_EXTRAS = {"dicom": "highdicom", "dask": "distributed", "tensorboard": "tensorboard"}


def python() -> Iterator[Finding]:
    """The interpreter, the platform and this package."""
    found = f"{platform.python_version()} in {sys.prefix}, {platform.platform()}"
    if sys.version_info[:2] >= _PYTHON:
        yield Finding("python", "ok", found)
    else:
        yield Finding("python", "fail", found, f"use Python {'.'.join(map(str, _PYTHON))} or later")
    try:
        yield Finding(_PACKAGE, "ok", importlib.metadata.version(_PACKAGE))
    except importlib.metadata.PackageNotFoundError:
        yield Finding(_PACKAGE, "warn", "not installed, run from its source", "pip install -e .")


def packages() -> Iterator[Finding]:
    """Each required package with its version, compared with the lowest that this package asks for."""
    for requirement in importlib.metadata.requires(_PACKAGE) or []:
        if "extra ==" in requirement:
            continue
        parts = re.match(r"[A-Za-z0-9_.-]+", requirement)
        name = parts[0] if parts else requirement
        lowest = re.search(r">=\s*([0-9.]+)", requirement)
        yield _package(name, lowest[1] if lowest else "")


def extras() -> Iterator[Finding]:
    """Which of the optional packages are there."""
    there = [extra for extra, module in _EXTRAS.items() if importlib.util.find_spec(module)]
    missing = [extra for extra in _EXTRAS if extra not in there]
    text = f"{', '.join(there) or 'none'} installed"
    yield Finding("extras", "ok", text + (f"; not installed: {', '.join(missing)}" if missing else ""))


def torch_pairing() -> Iterator[Finding]:
    """Whether torchvision is the release made for this torch, and can be imported: segment_anything needs it."""
    torch_version = importlib.metadata.version("torch")
    vision_version = importlib.metadata.version("torchvision")
    found = f"torch {torch_version}, torchvision {vision_version}"
    if not paired(torch_version, vision_version):
        minor = _numbers(torch_version)[1]
        yield Finding("torchvision", "fail", f"{found}: torch 2.{minor} goes with 0.{minor + _OFFSET}", _ONE_INDEX)
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield Finding("torchvision", "fail", f"{found}: cannot be imported ({reason[:150]})", _ONE_INDEX)
        return
    yield Finding("torchvision", "ok", found)


def paired(torch_version: str, vision_version: str) -> bool:
    """Whether two versions belong together. Other major versions than 2 and 0 are not judged."""
    torch_numbers, vision_numbers = _numbers(torch_version), _numbers(vision_version)
    if torch_numbers[:1] != (2,) or vision_numbers[:1] != (0,) or len(torch_numbers) < 2 or len(vision_numbers) < 2:
        return True
    return vision_numbers[1] == torch_numbers[1] + _OFFSET


def _package(name: str, lowest: str) -> Finding:
    fix = f'pip install "{name}>={lowest}"' if lowest else f"pip install {name}"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "fail", "not installed", fix)
    if lowest and _numbers(version) < _numbers(lowest):
        return Finding(name, "fail", f"{version}, needed is {lowest} or later", fix)
    return Finding(name, "ok", version)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, without trailing zeros, so that 2.0 equals 2."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while len(numbers) > 2 and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
