"""Synthetic abdominal CT as a dataset: for the demonstration, tests and continuous integration."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dataset_conversion.converter import CaseSource, Converter, LoadedCase, Part, Survey, register
from samora_pipeline.errors import UsageError

# Patients of one dataset follow each other; datasets of different seeds share none.
_PATIENTS_PER_SEED = 1000
# The window of the Synapse protocol, whose organs these are (TransUNet code).
_WINDOW = (-125.0, 275.0)


@dataclass(frozen=True)
class Scans:
    """How many patients of each part to draw."""

    training: int
    test: int
    unlabelled: int


@register
class Phantom(Converter):
    """20 training scans with labels, 6 test scans with labels, 20 scans without labels."""

    name = "Phantom"
    summary = "Synthetic abdominal CT, drawn on the spot: for demonstrations, tests and continuous integration."
    terms = "synthetic, free of terms; no substitute for patients"
    tree = "(nothing: the scans are drawn)"
    home = 90
    needs_source = False

    def add_options(self, parser: argparse._ActionsContainer) -> None:
        """Seed and numbers of scans."""
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="other patients (default 0)")
        parser.add_argument(
            "--scans",
            type=int,
            nargs="+",
            default=[20, 6, 20],
            metavar="N",
            help="training scans, then test and unlabelled scans (default 20 6 20; 30 %% and 100 %% of the first)",
        )

    def survey(self, source: Path, options: argparse.Namespace) -> Survey:
        """List the patients; nothing is drawn yet."""
        from dataset_conversion.phantom import LABELS
        from samora_pipeline.contracts.dataset import DatasetJson, PublishedSplit, SamoraJson

        scans = _scans(options.scans)
        first = options.seed * _PATIENTS_PER_SEED
        counts: dict[Part, int] = {"Tr": scans.training, "Ts": scans.test, "Un": scans.unlabelled}
        parts = [part for part, count in counts.items() for _ in range(count)]
        cases = tuple(
            CaseSource(f"phantom_{index:03d}", part, partial(_draw, first + index, part != "Un"))
            for index, part in enumerate(parts)
        )
        named = {part: tuple(case.name for case in cases if case.part == part) for part in ("Tr", "Ts")}
        return Survey(
            DatasetJson({"0": "CT"}, dict(LABELS), scans.training, ".nii.gz", extra={"name": self.name}),
            SamoraJson(
                origin=f"synthetic patients {first} to {first + len(cases) - 1}",
                terms=self.terms,
                phantom=True,
                budget_unit="slices",
                window=_WINDOW,
                published_split=PublishedSplit(named["Tr"], named["Ts"]) if scans.test else None,
            ),
            cases,
        )


def _scans(numbers: list[int]) -> Scans:
    training = numbers[0]
    test, unlabelled = [*numbers[1:], *[max(1, round(0.3 * training)), training][len(numbers) - 1 :]][:2]
    scans = Scans(training, test, unlabelled)
    total = training + test + unlabelled
    if len(numbers) > 3 or training < 1 or min(numbers) < 0 or total > _PATIENTS_PER_SEED:
        raise UsageError(
            "E-ARG-16",
            "these numbers of scans cannot be drawn",
            found=" ".join(map(str, numbers)),
            expected=f"one to three numbers, at least 1 training scan, at most {_PATIENTS_PER_SEED} scans together",
            fix="samora_convert -d Phantom --scans 20 6 20",
        )
    return scans


def _draw(patient: int, labelled: bool) -> LoadedCase:
    from dataset_conversion.phantom import draw_patient, render
    from samora_pipeline.imaging.volume import Volume, make_grid

    hu, labels, affine = render(draw_patient(patient))
    grid = make_grid(hu.shape, affine)
    drawn = Path(f"patient {patient}")
    return LoadedCase((Volume(hu, grid, drawn),), Volume(labels, grid, drawn) if labelled else None)
