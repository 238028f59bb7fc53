"""Probes of where things lie: the roots and what each value comes from, permission, space, and the public weights."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from samora_pipeline.doctor.findings import RESOURCES, Finding, Status
from samora_pipeline.errors import AssetError, SamoraError
from samora_pipeline.paths import Roots

_GIB = 1 << 30
_ENOUGH, _LEAST = 10.0, 1.0
_VARIABLES = ("ROOT", "RAW", "PREPROCESSED", "RESULTS", "WEIGHTS")


def roots(found: Roots) -> Iterator[Finding]:
    """Each folder, whether it is there, and what its place was taken from."""
    for name in _VARIABLES:
        folder: Path = getattr(found, name.lower())
        variable = f"SAMORA_{name}"
        stated = os.environ.get(variable, "").strip()
        origin = found.origin if name == "ROOT" else variable if stated else "below the root"
        text = f"{folder} ({origin}{'' if folder.exists() else ', not there yet'})"
        if stated[:1] in ('"', "'"):
            fix = f"write the value without quotes: {variable}={stated.strip(chr(34) + chr(39))}"
            yield Finding(name.lower(), "fail", f"{text}: the value of {variable} begins with a quote", fix)
        elif folder.exists() and not folder.is_dir():
            yield Finding(name.lower(), "fail", f"{text}: is a file", f"choose a folder for {variable}")
        else:
            yield Finding(name.lower(), "ok", text)


def permission(found: Roots) -> Iterator[Finding]:
    """Whether files can be written where the commands write, tried with a file that is removed at once."""
    for name, folder in _written(found).items():
        place = existing(folder)
        try:
            with tempfile.NamedTemporaryFile(dir=place, prefix=".samora_doctor-") as stream:
                stream.write(b"x")
                stream.flush()
        except OSError as error:
            text = f"{name}: cannot write in {place} ({error.strerror or error})"
            yield Finding("writing", "fail", text, f"chown or chmod {place}, or choose another folder with --root")
        else:
            yield Finding("writing", "ok", f"{name}: {place}")


def space(found: Roots) -> Iterator[Finding]:
    """Free space, once per disk."""
    seen: dict[int, str] = {}
    for name, folder in _written(found).items():
        place = existing(folder)
        device = place.stat().st_dev
        if device in seen:
            continue
        seen[device] = name
        free = shutil.disk_usage(place).free / _GIB
        text = f"{free:,.1f} GiB free for {name} ({place})"
        fix = f"df -h {place}  then free space, or choose another folder with --root"
        if free < _LEAST:
            yield Finding("disk", "fail", text, fix, RESOURCES)
        elif free < _ENOUGH:
            yield Finding("disk", "warn", text, fix)
        else:
            yield Finding("disk", "ok", text)


def weights(found: Roots) -> Iterator[Finding]:
    """The public weights that are here, each with its digest taken anew; and which are not."""
    from samora_pipeline.weights.catalog import ASSETS
    from samora_pipeline.weights.inventory import state, verify_all

    checked = {result.asset.name: result for result in verify_all(list(ASSETS.values()), found.weights, required=False)}
    for name, result in checked.items():
        if result.fault is None:
            yield Finding("weights", "ok", f"{name}: {state(result.asset, result.path)}, digest right  {result.path}")
        else:
            status: Status = "warn" if isinstance(result.fault, AssetError) else "fail"
            text = f"{name}: {result.fault.what} ({result.fault.found})"
            yield Finding("weights", status, text, result.fault.fix)
    missing = [name for name in ASSETS if name not in checked]
    if missing:
        yield Finding("weights", "ok", f"not here, fetched when needed: {', '.join(missing)}")


def datasets(found: Roots) -> Iterator[Finding]:
    """Raw datasets and trained runs, counted."""
    from samora_pipeline.inference.runs import find_runs

    try:
        names = [folder.folder_name for folder in found.datasets()]
        runs = find_runs(found.results)
    except SamoraError as error:
        yield Finding("datasets", "fail", f"{error.what} ({error.found})", error.fix)
        return
    yield Finding("datasets", "ok", f"{len(names)} raw datasets, {len(runs)} trained runs")


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    absolute = folder.absolute()
    return next(place for place in (absolute, *absolute.parents) if place.is_dir())


def _written(found: Roots) -> dict[str, Path]:
    return {name.lower(): getattr(found, name.lower()) for name in _VARIABLES[1:]}
