"""A dataset that is ready for training: its raw description, its plan, its splits and its store of slices."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.dataset import RawDataset, read_dataset
from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, Fingerprint
from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.plans import PLANS_FILE, Plans
from samora_pipeline.contracts.splits import SPLITS_FILE, Selection, Splits
from samora_pipeline.contracts.stored_case import SLICES_FOLDER, StoredCase
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_json
from samora_pipeline.paths import Roots


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
        return {path.stem: read_json(StoredCase, path) for path in records}

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
            it was measured again after it was planned, or by another version.
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
    return dataset


def _fault_of_measurements(dataset: PreparedDataset) -> str:
    try:
        same = digest_json(to_plain(dataset.fingerprint)) == dataset.plans.fingerprint_digest
    except DataError as error:
        return f"{error.what}: {error.found}"
    return "" if same else f"another {FINGERPRINT_FILE} than the one that {PLANS_FILE} names"
