"""The probes of ``samora_doctor``: versions, devices, cores and memory, folders, free disk and weights."""

import importlib
import importlib.metadata
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from samora_pipeline import resources
from samora_pipeline.errors import AssetError, DataError, ResourceError
from samora_pipeline.files import existing_folder
from samora_pipeline.paths import Roots, resolve_roots

_PACKAGE = "samora_pipeline"
# torchvision 0.(n + 15) is built against torch 2.n.
_OFFSET = 15
_ONE_INDEX = "pip install --force-reinstall torch torchvision  from one index (pytorch.org names it for your machine)"
_GIB = 1 << 30
_ENOUGH, _LEAST = 10.0, 1.0
_SHARED_MEMORY = Path("/dev/shm")
_FOLDERS = ("root", "raw", "preprocessed", "results", "weights")


@dataclass(frozen=True)
class Finding:
    """One line: what was examined, what was found and, unless that is fine, how it is repaired.

    ``exit_code`` is that of the whole command when ``status`` is ``fail``.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    value: str
    fix: str = ""
    exit_code: int = DataError.exit_code


Probe = Callable[[], Iterable[Finding]]


def run_probes(probes: Sequence[tuple[str, Probe]]) -> list[Finding]:
    """All findings in order. A probe that raises becomes a finding of its own, behind those it made before."""
    findings: list[Finding] = []
    for name, probe in probes:
        try:
            findings.extend(probe())
        except Exception as error:
            text = f"could not be examined: {type(error).__name__}: {error}".splitlines()[0]
            findings.append(Finding(name, "warn", text[:300]))
    return findings


def all_probes(root: str | None) -> list[tuple[str, Probe]]:
    """All probes in the order of the report, by the name of what they examine."""
    # Roots are resolved anew by each, so that roots that cannot be resolved are a finding and not the end.
    placed = {"folders": folders, "disk": space, "weights": weights}
    return [
        ("python", python),
        ("packages", packages),
        ("torchvision", torch_pairing),
        ("devices", devices),
        ("cores", own_resources),
        ("shared memory", shared_memory),
        *((name, lambda probe=probe: probe(resolve_roots(root))) for name, probe in placed.items()),
    ]


def python() -> Iterator[Finding]:
    """The interpreter and the platform."""
    yield Finding("python", "ok", f"{platform.python_version()} in {sys.prefix}, {platform.platform()}")


def packages() -> Iterator[Finding]:
    """Each required package with its version, compared with the lowest that is required."""
    for requirement in importlib.metadata.requires(_PACKAGE) or []:
        parts = re.match(r"([\w.-]+)(?:.*>=\s*([\d.]+))?", requirement)
        if parts is None or "extra ==" in requirement:
            continue
        name, lowest = parts[1], parts[2] or "0"
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = "not installed"
        if _numbers(version) < _numbers(lowest):
            yield Finding(name, "fail", f"{version}, {lowest} or later is needed", f'pip install "{name}>={lowest}"')
        else:
            yield Finding(name, "ok", version)


def torch_pairing() -> Iterator[Finding]:
    """Whether torchvision is the release made for this torch, and can be imported: segment_anything needs it."""
    torch, vision = (importlib.metadata.version(name) for name in ("torch", "torchvision"))
    found = f"torch {torch}, torchvision {vision}"
    if not paired(torch, vision):
        wanted = f"{found}: torch 2.{_numbers(torch)[1]} goes with 0.{_numbers(torch)[1] + _OFFSET}"
        yield Finding("torchvision", "fail", wanted, _ONE_INDEX)
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        yield Finding("torchvision", "fail", f"{found}: cannot be imported ({reason[:150]})", _ONE_INDEX)
    else:
        yield Finding("torchvision", "ok", found)


def paired(torch: str, vision: str) -> bool:
    """Whether two versions belong together. Other major versions than 2 and 0 are not judged."""
    numbers, own = _numbers(torch), _numbers(vision)
    return (numbers[0], own[0]) != (2, 0) or own[1] == numbers[1] + _OFFSET


def devices() -> Iterator[Finding]:
    """GPUs with their memory, or the reason why there is none."""
    import torch

    from samora_pipeline.inference.device import why_no_cuda

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        free, total = torch.cuda.mem_get_info(index)
        text = f"{torch.cuda.get_device_name(index)}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
        yield Finding(f"cuda:{index}", "ok", text)
    if count:
        return
    why = why_no_cuda()
    if why.driver:
        yield Finding("cuda", "warn", why.found, why.remedy)
    else:
        yield Finding("cuda", "ok", f"no GPU here, the CPU is used: {why.found}")


def own_resources() -> Iterator[Finding]:
    """Cores and memory that this process may use, each with what decides."""
    cores, memory = resources.cores(), resources.memory()
    yield Finding("cores", "ok", f"{cores.value}: {cores.why}")
    free = memory.value / _GIB
    fix = "" if free >= _LEAST else "end other programs, or ask for more (sbatch --mem, docker run --memory)"
    yield Finding("memory", "warn" if fix else "ok", f"{free:.1f} GiB can be had: {memory.why}", fix)


def shared_memory() -> Iterator[Finding]:
    """Space in /dev/shm, through which worker processes exchange arrays."""
    if _SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(_SHARED_MEMORY).free / _GIB
        fix = "" if free >= 1 else "docker run --shm-size 8g ...; without docker: -np 1"
        yield Finding("shared memory", "warn" if fix else "ok", f"{free:.2f} GiB free in {_SHARED_MEMORY}", fix)


def folders(roots: Roots) -> Iterator[Finding]:
    """Each folder, and whether files can be written there, tried with a file that is removed at once."""
    for name in _FOLDERS:
        folder: Path = getattr(roots, name)
        place = folder if folder.exists() else existing_folder(folder)
        try:
            with tempfile.NamedTemporaryFile(dir=place, prefix=".samora_doctor-") as stream:
                stream.write(b"x")
                stream.flush()
        except OSError as error:
            text = f"{folder}: cannot be written ({error.strerror or error})"
            yield Finding(name, "fail", text, f"chown or chmod it, or choose another with SAMORA_{name.upper()}")
        else:
            yield Finding(name, "ok", f"{folder}{'' if folder.is_dir() else ' (not there yet)'}")


def space(roots: Roots) -> Iterator[Finding]:
    """Free space, once per disk."""
    places = {existing_folder(folder).stat().st_dev: folder for folder in (roots.results, roots.preprocessed)}
    for folder in places.values():
        free = shutil.disk_usage(existing_folder(folder)).free / _GIB
        status: Literal["ok", "warn", "fail"] = "fail" if free < _LEAST else "warn" if free < _ENOUGH else "ok"
        fix = "" if status == "ok" else f"df -h {folder}  then free space, or choose another folder with --root"
        yield Finding("disk", status, f"{free:,.1f} GiB free for {folder}", fix, ResourceError.exit_code)


def weights(roots: Roots) -> Iterator[Finding]:
    """The public weights that are here, each with its digest computed again."""
    from samora_pipeline.weights.catalog import ASSETS
    from samora_pipeline.weights.inventory import verify_all

    for asset, path, fault in verify_all(list(ASSETS.values()), roots.weights, required=False):
        if fault is None:
            yield Finding("weights", "ok", f"{asset.name}: digest right  {path}")
        else:
            text = f"{asset.name}: {fault.what} ({fault.found})"
            yield Finding("weights", "warn" if isinstance(fault, AssetError) else "fail", text, fault.fix)


def _numbers(version: str) -> tuple[int, ...]:
    """The first three numbers of a version, so that 2.0 equals 2; (-1, 0, 0) for a text without any."""
    release = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in release[0].split(".")[:3]] if release else [-1]
    return tuple(numbers + [0] * (3 - len(numbers)))
