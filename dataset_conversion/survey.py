"""What a converter hands over: the cases of a source, what the dataset states of itself, and what became of them."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson
from samora_pipeline.errors import UsageError
from samora_pipeline.imaging.volume import Volume

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


@dataclass(frozen=True)
class Survey:
    """What a source holds; ``Converter.describe`` makes it. ``numTraining`` is counted again over the written cases.

    ``notes`` are sentences for the user. ``placement`` says how unchanged files get to their place.
    """

    description: DatasetJson
    ours: SamoraJson
    cases: tuple[CaseSource, ...]
    notes: tuple[str, ...] = ()
    placement: Placement = "copy"

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
