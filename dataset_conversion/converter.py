"""The contract of a converter, and the registry in which ``samora_convert`` looks one up.

A converter only says what a source holds (``survey``); writing, checking, progress and the isolation of faulty cases
are the same for all and live in ``writing``. To add a dataset, put one file into ``dataset_conversion/datasets`` that
registers a subclass of ``Converter``; it is found and tested from then on.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.registry import Registry

if TYPE_CHECKING:
    from dataset_conversion.label_map import LabelMap
    from dataset_conversion.published import Published
    from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson
    from samora_pipeline.imaging.volume import Volume

Part = Literal["Tr", "Ts", "Un"]
Placement = Literal["copy", "symlink"]

CONVERTERS: Registry[type[Converter]] = Registry("converter")


@dataclass(frozen=True)
class Identity:
    """What a dataset will be called: ``DatasetNNN_Name``. ``home`` is its usual number, None when it has none."""

    name: str
    home: int | None = None

    @classmethod
    def named(cls, name: str, *, expected: str, fix: str) -> Identity:
        """The identity of a dataset that the user names.

        Raises:
            UsageError: ``E-ARG-07`` no name, or one that cannot be part of a folder's name.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise UsageError("E-ARG-07", "the dataset needs a name", found=repr(name), expected=expected, fix=fix)
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
    """What a source holds. ``description.numTraining`` is counted while writing, whatever stands here.

    ``notes`` are sentences for the user. ``placement`` says how unchanged files get to their place.
    """

    description: DatasetJson
    ours: SamoraJson
    cases: tuple[CaseSource, ...]
    notes: tuple[str, ...] = ()
    placement: Placement = "copy"

    def count(self, part: Part) -> int:
        """Number of cases in a part."""
        return sum(case.part == part for case in self.cases)


@dataclass(frozen=True)
class SetAside:
    """A case that could not be converted, and why."""

    case: str
    code: str
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """What a conversion wrote; kept as conversion.json in the dataset's folder. Counts are cases."""

    schema_version: int = 1
    converter: str = ""
    source: str = ""
    training: int = 0
    test: int = 0
    unlabelled: int = 0
    set_aside: tuple[SetAside, ...] = ()
    notes: tuple[str, ...] = ()


class Converter(ABC):
    """What one source looks like.

    The contract, which ``tests/extensions/test_converters.py`` holds every registered converter to:

    - ``name`` is what follows ``-d``; ``page``, ``terms`` and ``citation`` say where the data come from and what is
      allowed, ``tree`` shows the expected folder, ``numbering`` says which number it gets where ``home`` does not.
    - ``summary`` is one sentence, ``channels`` names the channels, ``label_maps`` the labels and their values in each
      kind of source (both empty where the source itself tells), ``published`` the community's lists, ``remarks`` what
      a user should know beforehand. ``samora_convert -d list`` and docs/datasets.md print exactly these facts.
    - ``survey`` reads descriptions and file names, writes nothing, and raises ``DataError`` when the source as a whole
      cannot be used. Equal sources give equal surveys, cases in a fixed order with unique names.
    - the labels are consecutive from 0 (background), the training cases have label maps, channels are in the order of
      ``channel_names``.
    - importing the module is cheap: no numpy, no nibabel at the top (``--help`` imports all of them).
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    page: ClassVar[str] = ""
    terms: ClassVar[str] = ""
    citation: ClassVar[str] = ""
    tree: ClassVar[str] = ""
    home: ClassVar[int | None] = None
    numbering: ClassVar[str] = ""
    needs_source: ClassVar[bool] = True
    channels: ClassVar[tuple[str, ...]] = ()
    label_maps: ClassVar[Mapping[str, LabelMap]] = {}
    remarks: ClassVar[tuple[str, ...]] = ()

    def claims(self, token: str) -> bool:
        """Whether ``-d token`` means this converter (besides its own name)."""
        return False

    def add_options(self, parser: argparse._ActionsContainer) -> None:  # noqa: B027 - most converters have none
        """Declare the options that only this converter takes; each needs a default."""

    def options(self, **given: object) -> argparse.Namespace:
        """The converter's options with their defaults, for use without a command line."""
        parser = argparse.ArgumentParser(add_help=False)
        self.add_options(parser)
        return argparse.Namespace(**{**vars(parser.parse_args([])), **given})

    def identify(self, token: str, source: Path, options: argparse.Namespace) -> Identity:
        """Name and usual number of the dataset that this source becomes."""
        return Identity(self.name, self.home)

    def published(self) -> Published | None:
        """The split and the label budgets that the dataset's community uses, complete; None where there are none."""
        return None

    def joins(self, options: argparse.Namespace) -> str:
        """The dataset (number, name or path) that the scans are added to; empty: they become one of their own."""
        return ""

    @abstractmethod
    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Say what ``source`` holds.

        Raises:
            DataError: when the source as a whole cannot be used; ``missing_source`` builds the usual one.
        """

    def convert(self, source: Path, target: Path, options: argparse.Namespace) -> ConversionReport:
        """Write what ``source`` holds to the folder ``target``, whole or not at all; faulty cases are set aside.

        Raises:
            DataError: the source cannot be used, or no case of it can.
            ResourceError: the disk is full or cannot be written.
        """
        from dataset_conversion.writing import write_survey

        adopt, workers = getattr(options, "adopt_image_header", ()), getattr(options, "workers", 1)
        survey = self.survey(source, options)
        return write_survey(survey, target, self.name, str(source), adopt=adopt, workers=workers)

    def missing_source(self, source: Path, found: str) -> DataError:
        """The error for a folder that is not what this converter expects."""
        return DataError(
            "E-SRC-01",
            f"{source} does not look like a source of {self.name}",
            found=found,
            expected="\n    ".join(self.tree.splitlines()),
            fix=f"get the data from {self.page}, or name their folder with -i"
            if self.page
            else "name the folder with -i",
        )


Kind = TypeVar("Kind", bound=type[Converter])


def register(converter: Kind) -> Kind:
    """Class decorator that files a converter under its ``name``."""
    CONVERTERS.register(converter.name)(converter)
    return converter


def load_converters() -> list[Converter]:
    """Import every module of ``dataset_conversion.datasets`` and return one converter of each kind, by name."""
    from dataset_conversion import datasets

    for module in pkgutil.iter_modules(datasets.__path__):
        importlib.import_module(f"{datasets.__name__}.{module.name}")
    return [CONVERTERS.get(name)() for name in sorted(CONVERTERS.names(), key=str.lower)]


def find_converter(token: str) -> Converter:
    """Return the converter that claims ``token``, else the one of that name or at ``package.module:Class``.

    Raises:
        UsageError: ``E-NAME-01`` with the nearest name.
    """
    claimants = [converter for converter in load_converters() if converter.claims(token)]
    return claimants[0] if claimants else CONVERTERS.get(token)()
