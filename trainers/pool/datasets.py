"""Datasets that are ready for training, and which of them an unlabelled pool draws from: own, named, or the paper's."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.dataset import RawDataset, read_dataset
from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, Fingerprint
from samora_pipeline.contracts.freshness import changed_cases
from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.contracts.pool import PAPER_SLICES, PoolIntensity
from samora_pipeline.contracts.splits import SPLITS_FILE, Selection, Splits
from samora_pipeline.contracts.stored_case import SLICES_FOLDER, StoredCase, read_stored_case
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.files import digest_json
from samora_pipeline.paths import Roots
from samora_pipeline.registry import shortened

PAPER = "paper"
_NUMBER = re.compile(r"(\d+)$")
_FIRST_MAGNETIC_RESONANCE = 500
"""AMOS22 numbers its CT scans below 500 and its MR scans from 500 (readme of the dataset)."""


@dataclass(frozen=True)
class PreparedDataset:
    """Where a dataset lies and what its files say."""

    name: str
    folder: Path
    raw: RawDataset
    plans: Plans

    @property
    def slices(self) -> Path:
        """The folder of the stored cases."""
        return self.folder / SLICES_FOLDER

    @cached_property
    def cases(self) -> dict[str, StoredCase]:
        """All stored cases by name."""
        records = sorted(path for path in self.slices.glob("*.json") if not path.name.startswith("."))
        return {path.stem: read_stored_case(path) for path in records}

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What was measured from the raw files."""
        return read_json(Fingerprint, self.folder / FINGERPRINT_FILE)

    def splits(self) -> Splits:
        """The folds and the selections drawn so far."""
        return read_json(Splits, self.folder / SPLITS_FILE)

    def store_selection(self, selection: Selection) -> None:
        """Keep a selection in splits.json. Read anew and replaced at once: what others stored meanwhile stays."""
        splits = self.splits()
        wanted = splits.with_selection(selection)
        if wanted != splits:
            write_json(wanted, self.folder / SPLITS_FILE)


def preprocessing(plans: Plans) -> dict[str, Any]:
    """What of a plan shapes the images that a network sees."""
    plain = to_plain(plans)
    names = ("slice_axis", "in_plane", "in_plane_spacing", "slice_size", "channels", "intensity")
    return {name: plain[name]["value"] for name in (*names, "mirror")}


def open_dataset(token: str, roots: Roots) -> PreparedDataset:
    """Find a dataset and read its plan.

    Raises:
        DataError: ``E-NAME-02`` no such dataset, ``E-PLAN-01`` it was never planned and preprocessed, ``E-PLAN-13``
            it was measured again after it was planned, or by another version, ``E-PLAN-14`` its raw files (or labels)
            were changed since.
    """
    place = roots.dataset(token)
    folder = roots.preprocessed / place.folder_name
    missing = [
        name for name in (FINGERPRINT_FILE, PLANS_FILE, SPLITS_FILE, SLICES_FOLDER) if not (folder / name).exists()
    ]
    if missing:
        raise DataError("E-PLAN-01", place=place, found=f"no {', '.join(missing)} in {folder}")
    plans = read_json(Plans, folder / PLANS_FILE)
    dataset = PreparedDataset(place.folder_name, folder, read_dataset(place.raw), plans)
    found = _fault_of_measurements(dataset)
    if found:
        raise DataError("E-PLAN-13", place=place, found=found)
    if changed := changed_cases(dataset.raw, dataset.fingerprint, dataset.slices):
        raise DataError("E-PLAN-14", place=place, found=shortened(changed))
    return dataset


def _fault_of_measurements(dataset: PreparedDataset) -> str:
    try:
        same = digest_json(to_plain(dataset.fingerprint)) == dataset.plans.fingerprint_digest
    except DataError as error:
        return f"{error.what}: {error.found}"
    return "" if same else f"another {FINGERPRINT_FILE} than the one that {PLANS_FILE} names"


def _everything(case: str) -> bool:
    return True


def _is_amos_ct(case: str) -> bool:
    match = _NUMBER.search(case)
    return match is None or int(match[1]) < _FIRST_MAGNETIC_RESONANCE


@dataclass(frozen=True)
class PoolSettings:
    """What ``--set pool.NAME=VALUE`` changes.

    ``own``: whether the run's own scans are in it, beside the datasets of ``--unlabeled``. ``slices``: how many are
    chosen, by quota and seed (None: all that show something). ``intensity``: ``plan`` reads each dataset by its own
    plan, ``fed_menu`` see above. ``complete``: whether everything asked for must be there, the paper's datasets and
    the number of slices; without it a pool is made of what there is.

    Raises:
        UsageError: ``E-SET-04`` a number of slices that is not positive.
    """

    own: bool = True
    slices: int | None = None
    intensity: PoolIntensity = "plan"
    complete: bool = True

    def __post_init__(self) -> None:
        if self.slices is not None and self.slices <= 0:
            raise UsageError("E-SET-04", what="slices must be positive", found=str(self.slices))


# "100,000 unlabelled CT images", processed as in Fed-MENU (section 4.1).
PAPER_POOL = PoolSettings(slices=PAPER_SLICES, intensity="fed_menu")


@dataclass(frozen=True)
class PaperDataset:
    """One dataset of the paper's pool: the name it has here, how it is converted, and which of its cases are CT."""

    name: str
    converter: str
    keep: Callable[[str], bool] = _everything


# Section 4.1: AMOS22, MSD, KiTS19, LiTS, CT only. The decathlon's Task03 is LiTS once more and left out.
PAPER_DATASETS = (
    PaperDataset("AMOS22", "AMOS22", _is_amos_ct),
    PaperDataset("LiTS", "LiTS"),
    PaperDataset("KiTS19", "KiTS19"),
    PaperDataset("Lung", "Task06_Lung"),
    PaperDataset("Pancreas", "Task07_Pancreas"),
    PaperDataset("HepaticVessel", "Task08_HepaticVessel"),
    PaperDataset("Spleen", "Task09_Spleen"),
    PaperDataset("Colon", "Task10_Colon"),
)


PoolDatasets = dict[str, tuple[PreparedDataset, Callable[[str], bool]]]
"""datasets by name, each with the rule that its cases have to pass"""


def find_pool_datasets(
    own: PreparedDataset, tokens: Sequence[str], roots: Roots, settings: PoolSettings
) -> tuple[PoolDatasets, tuple[str, ...]]:
    """Open the datasets of a pool, and name those of the paper that are missing; nothing is copied.

    Without ``paper`` among the tokens the run's own dataset comes first; with it, or without ``settings.own``, only
    where it is on the paper's list or named as well.

    Raises:
        UsageError: ``E-POOL-08`` neither scans of the run's own nor another dataset.
        DataError: ``E-POOL-05`` datasets of the paper are not there (unless not ``complete``), ``E-NAME-02`` a token
            that names none, ``E-PLAN-..`` one that is not preprocessed.
    """
    found: PoolDatasets = {}
    missing: list[PaperDataset] = []
    if PAPER in tokens:
        present = {folder.name: folder.folder_name for folder in reversed(roots.datasets())}
        missing = [wanted for wanted in PAPER_DATASETS if wanted.name not in present]
        if missing and settings.complete:
            raise _incomplete(missing)
        for wanted in PAPER_DATASETS:
            if name := present.get(wanted.name):
                found[name] = (own if name == own.name else open_dataset(name, roots), wanted.keep)
    elif settings.own:
        found[own.name] = (own, _everything)
    elif not tokens:
        raise UsageError("E-POOL-08", found="pool.own=false without --unlabeled")
    for token in tokens:
        if token != PAPER:
            dataset = open_dataset(token, roots)
            found.setdefault(dataset.name, (own if dataset.name == own.name else dataset, _everything))
    return found, tuple(dataset.name for dataset in missing)


def _incomplete(missing: Sequence[PaperDataset]) -> DataError:
    commands = [f"samora_convert -d {dataset.converter}" for dataset in missing]
    return DataError(
        "E-POOL-05",
        number=len(missing),
        number2=len(PAPER_DATASETS),
        found=f"no {', '.join(dataset.name for dataset in missing)}",
        expected=", ".join(dataset.name for dataset in PAPER_DATASETS),
        fix=" && ".join((*commands, "samora_plan_and_preprocess"))
        + "\n       or ask for the smaller pool of what is here: --set pool.complete=false",
    )
