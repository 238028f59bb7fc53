"""What a converter finds and hands over: files by name, cases, published lists, and what became of them.

A published list is kept whole in ``lists/NAME.json``. A copy of the data that lacks some of its cases uses the rest.
"""

import fnmatch
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, Self

from samora_pipeline.contracts.dataset import DatasetJson, PublishedBudget, PublishedSplit, SamoraJson
from samora_pipeline.contracts.json_io import read_json
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.imaging.inputs import Channels, fault_of_channels, walk
from samora_pipeline.imaging.volume import Volume


def list_files(folder: Path, endings: tuple[str, ...]) -> list[Path]:
    """Files of ``folder`` with one of the endings, by name, without hidden ones (such as macOS's ``._`` copies).

    A link that leads nowhere is listed: its case fails by name instead of being missed.
    """
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.name.lower().endswith(endings) and not path.is_dir())
    return sorted(path for path in found if not path.name.startswith("."))


def is_listed(path: Path) -> bool:
    """Whether a folder has an entry of this name that should be a file, readable or not."""
    return path.is_file() or path.is_symlink()


def stem(path: Path, endings: tuple[str, ...]) -> str:
    """The file's name without the longest of the endings that it has."""
    fitting = [ending for ending in endings if path.name.lower().endswith(ending)]
    return path.name[: -len(max(fitting, key=len))] if fitting else path.name


def find_once(source: Path, pattern: str, name_of: Callable[[Path], str | None]) -> dict[str, Path]:
    """Files below ``source`` (``inputs.walk``) by the name that ``name_of`` gives them; None passes a file over.

    Raises:
        DataError: ``E-SRC-13`` when two files get the same name.
    """
    found: dict[str, Path] = {}
    files = [path for content in walk(source) for path in content.files if fnmatch.fnmatchcase(path.name, pattern)]
    for path in sorted(files):
        name = name_of(path)
        if name is None:
            continue
        if name in found:
            both = f"{found[name].relative_to(source)} and {path.relative_to(source)}"
            raise DataError("E-SRC-13", name=name, found=both)
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


Part = Literal["Tr", "Ts", "Un"]
Placement = Literal["copy", "symlink"]


@dataclass(frozen=True)
class Identity:
    """What a dataset will be called: ``DatasetNNN_Name``. ``home`` is its usual number, None when it has none."""

    name: str
    home: int | None = None

    @classmethod
    def named(cls, name: str, *, expected: str, fix: str) -> Self:
        """The identity of a dataset that the user names.

        Raises:
            UsageError: ``E-ARG-07`` no name, or one that cannot be part of a folder's name.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise UsageError("E-ARG-07", found=repr(name), expected=expected, fix=fix)
        return cls(name)


@dataclass(frozen=True)
class LoadedCase:
    """One case in memory: a volume [X, Y, Z] for each channel, in order, and its label map, where there is one.

    ``unchanged`` names the files that hold exactly one of these volumes already; they are placed as they are where
    their ending allows it. All other volumes are written anew.
    """

    channels: tuple[Volume, ...]
    label: Volume | None = None
    unchanged: frozenset[Path] = frozenset()


@dataclass(frozen=True)
class CaseSource:
    """One case of a source: its name, the part it belongs to (Tr train, Ts test, Un unlabelled) and how to load it.

    ``load`` may take its time and raises ``DataError`` when the case is faulty; the other cases go on without it.
    """

    name: str
    part: Part
    load: Callable[[], LoadedCase]


def faulty_load(error: DataError) -> Callable[[], LoadedCase]:
    """The ``load`` of a case that is known to be faulty."""
    return partial(_refuse, error)


def _refuse(error: DataError) -> LoadedCase:
    raise error


def files_of(case: str, channels: Channels) -> tuple[tuple[Path, ...], DataError | None]:
    """All files of a case in the order of their channels, and what is wrong with their numbers."""
    files = tuple(path for number in sorted(channels) for path in channels[number])
    return files, fault_of_channels(case, channels)


@dataclass(frozen=True)
class Survey:
    """What a source holds; ``Converter.describe`` makes it. ``numTraining`` is counted again over the written cases.

    ``notes`` are sentences for the user. ``placement`` says how unchanged files get to their place. ``origin`` names
    the folders that were read, where they are not the source that the converter was given.
    """

    description: DatasetJson
    ours: SamoraJson
    cases: tuple[CaseSource, ...]
    notes: tuple[str, ...] = ()
    placement: Placement = "copy"
    origin: str = ""

    def names(self, *parts: Part) -> tuple[str, ...]:
        """Names of the cases of these parts."""
        return tuple(case.name for case in self.cases if case.part in parts)

    def count(self, part: Part) -> int:
        """Number of cases in a part."""
        return len(self.names(part))


@dataclass(frozen=True)
class Skipped:
    """A case that could not be converted, and why."""

    case: str
    code: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion wrote; kept as conversion.json in the dataset's folder. Counts are cases."""

    converter: str
    source: str
    training: int
    test: int
    unlabelled: int
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    schema_version: int = 2


_LISTS = Path(__file__).with_name("lists")
_SHOWN = 10


@dataclass(frozen=True)
class Published:
    """The lists of one dataset; ``origin`` is a sentence that says whose they are.

    ``budgets`` is keyed by the name of the split (``10pct``); its slices count along the raw through-plane axis.
    """

    origin: str
    split: PublishedSplit | None = None
    budgets: dict[str, PublishedBudget] = field(default_factory=dict)

    def samora_json(self, origin: str, spacing_known: bool) -> SamoraJson:
        """samora.json of a dataset with these lists."""
        ours = SamoraJson(origin=origin, spacing_known=spacing_known)
        return replace(ours, published_split=self.split, budgets=self.budgets)

    def part(self, case: str) -> Part:
        """``Ts`` for a case of the published test set, else ``Tr``."""
        return "Ts" if self.split is not None and case in self.split.test else "Tr"


def read_published(name: str) -> Published:
    """Read ``lists/NAME.json``."""
    return read_json(Published, _LISTS / f"{name}.json")


def limit(published: Published, present: Collection[str]) -> tuple[Published, tuple[str, ...]]:
    """Return the lists without the cases that are not ``present``, and a sentence for each list that lost some.

    A budget of which no case is left is dropped.
    """
    notes: list[str] = []

    def kept(cases: tuple[str, ...], what: str) -> tuple[str, ...]:
        missing = [case for case in cases if case not in present]
        notes.extend(counted(missing, f"of the {len(cases)} cases of {what} are missing", _SHOWN))
        return tuple(case for case in cases if case in present)

    split = published.split
    if split is not None:
        train = kept(split.train, "the published training set")
        split = PublishedSplit(train, kept(split.test, "the published test set"))
    budgets = {}
    for name, budget in published.budgets.items():
        cases = kept(budget.cases, f"the published list {name}")
        if cases:
            slices = {case: indices for case, indices in budget.slices.items() if case in cases}
            budgets[name] = replace(budget, cases=cases, slices=slices)
    return replace(published, split=split, budgets=budgets), tuple(notes)
