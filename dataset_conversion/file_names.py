"""Names of files in a source: which belong to one case, which lead out of their folder, and sentences about them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from samora_pipeline.contracts.dataset import CHANNEL_NAME
from samora_pipeline.errors import DataError


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
        match = CHANNEL_NAME.match(name)
        case, number = (match["case"], int(match["channel"])) if match else (name, 0)
        numbered.setdefault(case, []).append((number, path))
    return {case: tuple(path for _, path in sorted(numbered[case])) for case in sorted(numbered)}


def find_once(source: Path, pattern: str, name_of: Callable[[Path], str | None]) -> dict[str, Path]:
    """Files below ``source`` by the name that ``name_of`` gives them, sorted; None passes a file over.

    Raises:
        DataError: ``E-SRC-13`` when two files get the same name.
    """
    found: dict[str, Path] = {}
    for path in sorted(source.rglob(pattern)):
        name = name_of(path)
        if name is None or not path.is_file() or "__MACOSX" in path.parts:
            continue
        if name in found:
            raise DataError(
                "E-SRC-13", name=name, found=f"{found[name].relative_to(source)} and {path.relative_to(source)}"
            )
        found[name] = path
    return dict(sorted(found.items()))


def listed_path(root: Path, name: str) -> Path:
    """Return the file that a description names relative to ``root``. Symbolic links of the user's own may lead away.

    Raises:
        DataError: ``E-PATH-01`` for absolute names, ``..`` and control characters.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not name.isprintable():
        raise DataError("E-PATH-01", root=root, found=repr(name))
    return root / path


def shortened(names: Sequence[object], shown: int = 10) -> str:
    """The first names of a list, for a sentence."""
    return ", ".join(map(str, names[:shown])) + (", ..." if len(names) > shown else "")


def counted(names: Sequence[str], what: str, shown: int = 10) -> tuple[str, ...]:
    """The note ``N WHAT: a, b, ...``; none where there are no names."""
    return (f"{len(names)} {what}: {shortened(names, shown)}",) if names else ()


def unpaired(scans: Mapping[str, Path], labels: Mapping[str, Path]) -> tuple[str, ...]:
    """Notes about scans without label map and label maps without scan, by file name."""
    bare = [path.name for name, path in scans.items() if name not in labels]
    alone = [path.name for name, path in labels.items() if name not in scans]
    left_out = "and were left out"
    return counted(bare, f"scans have no label map {left_out}") + counted(alone, f"label maps have no scan {left_out}")
