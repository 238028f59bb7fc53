"""Taking a study to a machine without the scans and back: preprocessed slices there, results here.

    python -m benchmarks.studies.carry out --root STUDY --dataset LA --halve FOLDER     a data root without scans
    python -m benchmarks.studies.carry pack --root FOLDER PARTS                         there: results, in parts
    python -m benchmarks.studies.carry back --root STUDY PARTS                          here: joined and checked

Between the first two, FOLDER is the ``--root`` of the study there. Back here the study scores what was trained.
Published test scans are never taken along.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.studies.halving import halve_case
from samora_pipeline.command_line import CommandParser, run, say
from samora_pipeline.contracts.dataset import read_dataset
from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE
from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.contracts.plans import PLANS_FILE
from samora_pipeline.contracts.splits import OFFICIAL, SPLITS_FILE, Splits
from samora_pipeline.contracts.stored_case import SLICES_FOLDER
from samora_pipeline.errors import DataError, ResourceError
from samora_pipeline.files import digest_file, inside, write_bytes
from samora_pipeline.paths import Roots, resolve_roots
from samora_pipeline.slices.store import CasePaths
from trainers.study.state import STUDY_FILE

INPUT_LIMIT = 64 * 2**20
PART_LIMIT = 16 * 2**20
MOST_FILES = 8
"""what a borrowed machine takes, and what comes back from it, the list of parts included"""

_LIST = "parts.json"
_STUDY = "study"


@dataclass(frozen=True)
class Parts:
    """parts.json: the SHA-256 of each part, by its name and in their order."""

    digests: dict[str, str]
    schema_version: int = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = CommandParser("carry", "Take a study to a machine without scans, and bring its results back.")
    parser.add_argument("way", choices=("out", "pack", "back"))
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--dataset", metavar="D", help="out: the dataset to take along")
    parser.add_argument("--halve", action="store_true", help="out: at half the resolution along rows and columns")
    return run(parser, _carry, None if argv is None else list(argv))


def _carry(arguments: argparse.Namespace) -> None:
    roots, folder = resolve_roots(arguments.root), arguments.folder
    if arguments.way == "out":
        size = take_out(roots, arguments.dataset or "LA", folder, halve=arguments.halve)
        say(f"{folder}: {size / 2**20:.1f} MiB")
    elif arguments.way == "pack":
        say(f"{folder}: {len(pack(roots, folder).digests)} parts")
    else:
        bring_back(roots, folder)
        say(f"{roots.root}: results are back; the study's command scores them")


def take_out(roots: Roots, dataset: str, folder: Path, *, halve: bool) -> int:
    """Make ``folder`` a data root with all that training needs of a dataset; return its bytes.

    Raises:
        ResourceError: ``E-STUDY-15`` it is larger than a borrowed machine takes.
    """
    place = roots.dataset(dataset)
    prepared, target = roots.preprocessed / place.folder_name, resolve_roots(str(folder))
    copied = target.preprocessed / place.folder_name
    (copied / SLICES_FOLDER).mkdir(parents=True, exist_ok=True)
    (target.raw / place.folder_name).mkdir(parents=True, exist_ok=True)
    for name in ("dataset.json", "samora.json"):
        if (place.raw / name).is_file():
            shutil.copyfile(place.raw / name, target.raw / place.folder_name / name)
    for name in (FINGERPRINT_FILE, PLANS_FILE, SPLITS_FILE):
        shutil.copyfile(prepared / name, copied / name)
    splits = read_json(Splits, prepared / SPLITS_FILE)
    scored = set(splits.folds[OFFICIAL].scored) if OFFICIAL in splits.folds else set()
    scheme = read_dataset(place.raw).scheme
    for record in sorted((prepared / SLICES_FOLDER).glob("*.json")):
        case = record.stem
        if case in scored or case.startswith("."):
            continue
        if halve:
            halve_case(prepared / SLICES_FOLDER, case, copied / SLICES_FOLDER, scheme)
            continue
        paths = CasePaths.of(prepared / SLICES_FOLDER, case)
        for path in (paths.images, paths.labels, paths.record):
            if path.is_file():
                shutil.copyfile(path, copied / SLICES_FOLDER / path.name)
    _copy_state(roots, target)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > INPUT_LIMIT:
        raise ResourceError(
            "E-STUDY-15",
            f"{folder} is larger than a borrowed machine takes",
            found=f"{size / 2**20:.1f} MiB",
            expected=f"at most {INPUT_LIMIT / 2**20:.0f} MiB",
            fix="the same command with --halve" if not halve else "a dataset with fewer scans",
        )
    return size


def pack(roots: Roots, folder: Path) -> Parts:
    """Write all results and the study's state to ``folder``, in parts that come back from a borrowed machine.

    Raises:
        ResourceError: ``E-STUDY-16`` they are too many.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz", preset=1) as archive:
        for path in (
            roots.results,
            roots.root / _STUDY / STUDY_FILE,
            *sorted(roots.preprocessed.glob(f"*/{SPLITS_FILE}")),
        ):
            if path.exists():
                archive.add(path, str(path.relative_to(roots.root)), filter=_plain)
    content = stream.getvalue()
    pieces = [content[start : start + PART_LIMIT] for start in range(0, len(content), PART_LIMIT)]
    if len(pieces) + 1 > MOST_FILES or len(content) > INPUT_LIMIT:
        raise ResourceError(
            "E-STUDY-16",
            "the results are more than comes back from a borrowed machine",
            found=f"{len(content) / 2**20:.0f} MiB",
            expected=f"at most {INPUT_LIMIT / 2**20:.0f} MiB",
            fix="bring them back after fewer runs, or remove those that are back already",
        )
    digests = {}
    for number, piece in enumerate(pieces):
        path = folder / f"part_{number:02d}.bin"
        write_bytes(path, piece)
        digests[path.name] = digest_file(path)
    parts = Parts(digests)
    write_json(parts, folder / _LIST)
    return parts


def bring_back(roots: Roots, folder: Path) -> None:
    """Join the parts, check them, and unpack them into the study's root; files of the same name are replaced.

    Raises:
        DataError: ``E-STUDY-17`` a part is missing or damaged, ``E-PATH-01`` a file that would lie outside; nothing is
            unpacked then.
    """
    parts = read_json(Parts, folder / _LIST)
    for name, digest in parts.digests.items():
        path = folder / Path(name).name
        if not path.is_file() or digest_file(path) != digest:
            raise DataError(
                "E-STUDY-17",
                "results did not come back whole",
                found=f"{name} is {'damaged' if path.is_file() else 'missing'}",
                expected=f"the parts that {_LIST} names",
                fix="fetch it again",
            )
    content = b"".join((folder / Path(name).name).read_bytes() for name in parts.digests)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:xz") as archive:
        # Judged before anything is written, and by own hand: early releases of Python 3.11 have no extraction filter.
        members = [(member, inside(roots.root, member.name)) for member in archive if member.isfile()]
        for member, target in members:
            target.parent.mkdir(parents=True, exist_ok=True)
            if (stream := archive.extractfile(member)) is not None:
                write_bytes(target, stream.read())


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Files and folders only; what a killed writer left behind stays there."""
    return member if member.isfile() or member.isdir() else None


def _copy_state(roots: Roots, target: Roots) -> None:
    state = roots.root / _STUDY / STUDY_FILE
    if state.is_file():
        (target.root / _STUDY).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(state, target.root / _STUDY / STUDY_FILE)


if __name__ == "__main__":
    sys.exit(main())
