"""Names of files in a source: which belong to one case, and which lead out of their folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from samora_pipeline.errors import DataError

_CHANNEL = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")


def list_files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files of ``folder`` with one of the endings, by name, without hidden ones (such as macOS's ``._`` copies)."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.name.lower().endswith(endings) and path.is_file())
    return sorted(path for path in found if not path.name.startswith("."))


def stem(path: Path, endings: tuple[str, ...]) -> str:
    """The file's name without the longest of the endings that it has."""
    fitting = [ending for ending in endings if path.name.lower().endswith(ending)]
    return path.name[: -len(max(fitting, key=len))] if fitting else path.name


def group_channels(paths: Iterable[Path], endings: tuple[str, ...]) -> dict[str, tuple[Path, ...]]:
    """Group CASE_0000, CASE_0001, ... by case, in the order of their numbers; a name without a number is a case."""
    numbered: dict[str, list[tuple[int, Path]]] = {}
    for path in paths:
        name = stem(path, endings)
        match = _CHANNEL.match(name)
        case, number = (match["case"], int(match["channel"])) if match else (name, 0)
        numbered.setdefault(case, []).append((number, path))
    return {case: tuple(path for _, path in sorted(numbered[case])) for case in sorted(numbered)}


def listed_path(root: Path, name: str) -> Path:
    """Return the file that a description names relative to ``root``. Symbolic links of the user's own may lead away.

    Raises:
        DataError: ``E-PATH-01`` for absolute names, ``..`` and control characters.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise DataError(
            "E-PATH-01",
            "a file name in a description leads outside its folder",
            found=repr(name),
            expected=f"a relative path below {root}",
            fix="correct the name in dataset.json",
        )
    return root / path


def shortened(names: Sequence[str], shown: int = 10) -> str:
    """The first names of a list, for a sentence."""
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")
