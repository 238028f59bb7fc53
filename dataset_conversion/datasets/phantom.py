"""Synthetic abdominal CT as a dataset: for the demonstration, tests and continuous integration."""

import argparse
from functools import partial
from pathlib import Path

from dataset_conversion.converter import Converter
from dataset_conversion.phantom import LABELS, draw_patient, render
from dataset_conversion.survey import CaseSource, LoadedCase, Part, Survey
from dataset_conversion.synapse_slices import WINDOW
from samora_pipeline.contracts.dataset import PublishedSplit, SamoraJson
from samora_pipeline.errors import UsageError
from samora_pipeline.imaging.volume import Volume, make_grid

# Patients of one dataset follow each other; datasets of different seeds share none.
_PATIENTS_PER_SEED = 1000


class Phantom(Converter):
    """20 training scans with labels, 6 test scans with labels, 20 scans without labels."""

    name = "Phantom"
    summary = "Synthetic abdominal CT, drawn on the spot: for demonstrations, tests and continuous integration."
    terms = "synthetic, free of terms; no substitute for patients"
    tree = "(nothing: the scans are drawn)"
    home = 90
    channels = ("CT",)
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
        counts = _counts(options.scans)
        first = options.seed * _PATIENTS_PER_SEED
        parts = [part for part, count in counts.items() for _ in range(count)]
        cases = tuple(
            CaseSource(f"phantom_{index:03d}", part, partial(_draw, first + index, part != "Un"))
            for index, part in enumerate(parts)
        )
        train, test = (tuple(case.name for case in cases if case.part == part) for part in ("Tr", "Ts"))
        ours = SamoraJson(
            origin=f"synthetic patients {first} to {first + len(cases) - 1}",
            phantom=True,
            budget_unit="slices",
            # The organs are those of Synapse, and so is the window.
            window=WINDOW,
            published_split=PublishedSplit(train, test) if test else None,
        )
        return self.describe(cases, ours, labels=LABELS)


def _counts(numbers: list[int]) -> dict[Part, int]:
    """How many patients of each part to draw."""
    training = numbers[0]
    test, unlabelled = [*numbers[1:], *[max(1, round(0.3 * training)), training][len(numbers) - 1 :]][:2]
    total = training + test + unlabelled
    if len(numbers) > 3 or training < 1 or min(numbers) < 0 or total > _PATIENTS_PER_SEED:
        raise UsageError("E-ARG-16", found=" ".join(map(str, numbers)))
    return {"Tr": training, "Ts": test, "Un": unlabelled}


def _draw(patient: int, labelled: bool) -> LoadedCase:
    hu, labels, affine = render(draw_patient(patient))
    grid = make_grid(hu.shape, affine)
    drawn = Path(f"patient {patient}")
    return LoadedCase((Volume(hu, grid, drawn),), Volume(labels, grid, drawn) if labelled else None)
