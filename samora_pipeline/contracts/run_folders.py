"""Finding a run by its path, by its name, or by any part of the name that no other run has."""

import re
from collections.abc import Callable
from pathlib import Path

from samora_pipeline.contracts.run import CONFIG_FILE
from samora_pipeline.errors import UsageError
from samora_pipeline.registry import shortened

FOLD_PREFIX = "fold_"
DATASET_FOLDER = re.compile(r"^Dataset\d{3,}_.+$")
_BETWEEN = "__"


def find_run_folder(named: str, results: Path, usable: Callable[[Path], bool]) -> Path | None:
    """Return the folder of a run, or of a fold of it; None where nothing has that name.

    Args:
        named: a path, here or below ``results``; or a part of ``DatasetNNN_Name/TRAINER__SPLIT__NAME`` in any case of
            letters, with ``/fold_K`` behind it for one fold. Whole names and whole parts of names come first.
        results: the results folder.
        usable: whether a run has what is needed of it; others are not looked for by name.

    Raises:
        UsageError: ``E-RUN-24`` several runs have this part, with their names.
    """
    present = [path.resolve() for path in (Path(named), results / named) if path.is_dir()]
    for path in present:
        if (path / CONFIG_FILE).is_file() or any(path.glob(f"{FOLD_PREFIX}*")):
            return path
    part, _, fold = named.strip("/").rpartition("/")
    if not fold.startswith(FOLD_PREFIX):
        part, fold = named.strip("/"), ""
    runs = {run_label(run): run for run in run_folders(results) if usable(run)}
    found = _matching(part, list(runs))
    if len(found) > 1:
        shown = shortened(found)
        raise UsageError("E-RUN-24", part=part, example=found[0], found=shown, typo=(named, _with_fold(found[0], fold)))
    if not found:
        return present[0] if present else None
    folder = runs[found[0]] / fold
    return folder.resolve() if folder.is_dir() else None


def run_folders(results: Path) -> list[Path]:
    """Every run with the config of a fold below the results folder, by name; trial runs lie deeper."""
    if not results.is_dir():
        return []
    datasets = sorted(entry for entry in results.iterdir() if DATASET_FOLDER.match(entry.name) and entry.is_dir())
    entries = (entry for dataset in datasets for entry in sorted(dataset.iterdir()))
    # What begins with a dot is hidden, or what a killed import left behind.
    runs = (entry for entry in entries if entry.name[0] != "." and entry.is_dir())
    return [run for run in runs if any(run.glob(f"{FOLD_PREFIX}*/{CONFIG_FILE}"))]


def run_label(run: Path) -> str:
    """``DatasetNNN_Name/TRAINER__SPLIT__NAME``."""
    return f"{run.parent.name}/{run.name}"


def _with_fold(name: str, fold: str) -> str:
    return f"{name}/{fold}" if fold else name


def _matching(part: str, labels: list[str]) -> list[str]:
    """The names that the part is all of, else those that have it as one of their parts, else those that hold it."""
    wanted = part.lower()
    rules: tuple[Callable[[str], bool], ...] = (
        lambda name: wanted in (name, name.partition("/")[2]),
        lambda name: wanted in re.split(f"{_BETWEEN}|/", name),
        lambda name: wanted in name,
    )
    for rule in rules if wanted else ():
        if found := [name for name in labels if rule(name.lower())]:
            return found
    return []
