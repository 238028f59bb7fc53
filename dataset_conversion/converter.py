"""The contract of a converter: it states each fact of a dataset once, and says which cases a source holds.

Writing, checking, progress and the isolation of faulty cases are the same for all (``writing``). A dataset is one file
in ``dataset_conversion/datasets`` with a subclass of ``Converter``, and a line in ``dataset_conversion/catalogue.py``;
a class outside the repository needs no line: ``samora_convert -d my_package.my_module:MyConverter``.
"""

import argparse
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from dataset_conversion.scans import LabelMap
from dataset_conversion.survey import (
    CaseSource,
    ConversionReport,
    Identity,
    Placement,
    Published,
    Survey,
    read_published,
)
from dataset_conversion.writing import write_survey
from samora_pipeline.contracts.dataset import DatasetJson, SamoraJson
from samora_pipeline.errors import DataError
from samora_pipeline.parallel import SERIAL


class Converter(ABC):
    """What one source looks like.

    The contract, which ``tests/extensions/converter_contract.py`` holds every converter to:

    - ``name`` is what follows ``-d`` and what the dataset is called; ``page``, ``terms`` and ``citation`` say where the
      data come from and what is allowed, ``tree`` shows the expected folder.
    - ``home`` is the usual number of the dataset, unique among the converters and below 100; docs/datasets.md lists
      the numbers that are free. ``numbering`` says which number it gets where there is no home.
    - ``summary`` is one sentence, ``channels`` names the channels, ``label_maps`` the labels and their values in each
      kind of source (both empty where the source itself tells), ``lists`` the file of the community's lists in
      ``dataset_conversion/lists``, ``remarks`` what a user should know beforehand. ``samora_convert -d list`` and
      docs/datasets.md print exactly these facts, and ``describe`` writes them to dataset.json and samora.json.
    - ``survey`` reads descriptions and file names, writes nothing, and raises ``DataError`` when the source as a whole
      cannot be used. Equal sources give equal surveys, cases in a fixed order with unique names.
    - the labels are consecutive from 0 (background), the training cases have label maps, channels are in the order of
      ``channels``.
    - a method ``sample(folder)``, for which the commands have no use, writes a small source of at least two training
      cases; the contract of a converter from outside is tested on it.
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
    lists: ClassVar[str] = ""
    remarks: ClassVar[tuple[str, ...]] = ()

    def add_options(self, parser: argparse._ActionsContainer) -> None:  # noqa: B027 - most converters have none
        """Declare the options that only this converter takes; each needs a default."""

    def options(self, **given: object) -> argparse.Namespace:
        """The converter's options with their defaults, for use without a command line."""
        parser = argparse.ArgumentParser(add_help=False)
        self.add_options(parser)
        return argparse.Namespace(**{**vars(parser.parse_args([])), **given})

    def identify(self, token: str, source: Path, options: argparse.Namespace) -> Identity:
        """Name and usual number of the dataset that this source becomes; ``token`` is what followed ``-d``."""
        return Identity(self.name, self.home)

    def published(self) -> Published:
        """The split and the label budgets that the dataset's community uses, complete; empty where there are none."""
        return read_published(self.lists) if self.lists else Published("")

    def joins(self, options: argparse.Namespace) -> str:
        """The dataset (number, name or path) that the scans are added to; empty: they become one of their own."""
        return ""

    @abstractmethod
    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """Say what ``source`` holds; ``describe`` makes the result.

        Raises:
            DataError: when the source as a whole cannot be used; ``missing_source`` builds the usual one.
        """

    def describe(
        self,
        cases: Iterable[CaseSource],
        ours: SamoraJson,
        notes: Iterable[str] = (),
        *,
        about: Mapping[str, str] | None = None,
        channels: tuple[str, ...] = (),
        labels: Mapping[str, int | tuple[int, ...]] | None = None,
        placement: Placement = "copy",
    ) -> Survey:
        """The survey of ``cases``: what the class states, and ``ours`` for what this source adds to samora.json.

        ``channels``, ``labels`` and ``about`` (further keys of dataset.json; empty texts are left out) are given where
        the source decides them; citation and terms of ``ours`` are those of the class unless it has its own.
        """
        found = tuple(cases)
        return Survey(
            DatasetJson(
                {str(number): channel for number, channel in enumerate(channels or self.channels)},
                dict(labels or next(iter(self.label_maps.values())).labels),
                sum(case.part == "Tr" for case in found),
                ".nii.gz",
                extra={key: text for key, text in (about or {"name": self.name}).items() if text},
            ),
            replace(ours, citation=ours.citation or self.citation, terms=ours.terms or self.terms),
            found,
            tuple(notes),
            placement,
        )

    def convert(self, source: Path, target: Path, options: argparse.Namespace) -> ConversionReport:
        """Write what ``source`` holds to the folder ``target``, whole or not at all; faulty cases are skipped.

        Raises:
            DataError: the source cannot be used, or no case of it can.
            ResourceError: the disk is full or cannot be written.
        """
        adopt, engine = getattr(options, "adopt_image_header", ()), getattr(options, "engine", SERIAL)
        survey = self.survey(source, options)
        return write_survey(survey, target, self.name, survey.origin or str(source), adopt=adopt, engine=engine)

    def missing_source(self, source: Path, found: str) -> DataError:
        """The error for a folder that is not what this converter expects."""
        return DataError(
            "E-SRC-01",
            source=source,
            name=self.name,
            found=found,
            expected="\n    ".join(self.tree.splitlines()),
            fix=(f"get the data from {self.page}, or " if self.page else "") + "name the folder with -i",
        )
