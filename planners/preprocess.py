"""Writes the preprocessed dataset: every case into the slice store, then splits and plan, the plan last.

A case that is already stored from the same files is verified and kept; one that is missing, stale or damaged is
written again. Killing it at any moment loses at most the case being written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from planners.cases import CaseSource
from planners.fingerprint_extractor import same_files
from planners.integrity import count_labels
from planners.measurements import MEASUREMENTS_FOLDER, remove_other_measurements
from planners.nnunet_splits import NNUNET_SPLITS_FILE
from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, CaseFingerprint, Fingerprint
from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import PLANS_FILE, Plans, SliceAxis
from samora_pipeline.contracts.splits import SPLITS_FILE, Splits
from samora_pipeline.contracts.stored_case import SLICES_FOLDER, StoredCase
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_json, sweep, write_bytes
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import labels_to_slices, to_slices
from samora_pipeline.parallel import Engine
from samora_pipeline.slices.store import CasePaths, StoredSlices, write_case

COPIED = ("dataset.json", "samora.json", NNUNET_SPLITS_FILE)


@dataclass(frozen=True)
class StoreTask:
    """One case to store: its files, what was measured, the axis to slice along and the folder to write to."""

    source: CaseSource
    fingerprint: CaseFingerprint
    scheme: LabelScheme
    axis: SliceAxis
    folder: Path

    @property
    def source_digest(self) -> str:
        """Covers all that determines the stored case: another digest means that it is stale."""
        return digest_json(
            {
                "images": self.fingerprint.image_digests,
                "label": self.fingerprint.label_digest,
                "subset": self.fingerprint.subset,
                "axis": self.axis,
                "labels": to_plain(self.scheme),
            }
        )


@dataclass(frozen=True)
class StoreAccount:
    """How many cases were written and how many were there already."""

    written: int
    kept: int


def store_cases(target: Path, plans: Plans, tasks: Sequence[StoreTask], engine: Engine) -> StoreAccount:
    """Store the cases of ``tasks`` that are not there yet in ``target`` (preprocessed/DatasetNNN_Name).

    Raises:
        DataError, ResourceError: the first error of a case; the others are stored all the same.
    """
    (target / SLICES_FOLDER).mkdir(parents=True, exist_ok=True)
    if read_plans(target) != plans:
        # A plan must never stand beside slices that were made for another one, not even after a kill.
        (target / PLANS_FILE).unlink(missing_ok=True)
    items = [(task.source.name, task) for task in tasks]
    outcomes = engine.map(store_case, items, "storing", [task.source.bytes_on_disk for task in tasks])
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
    written = sum(outcome.result is True for outcome in outcomes)
    return StoreAccount(written, len(outcomes) - written)


def conclude(target: Path, raw: Path, fingerprint: Fingerprint, plans: Plans, splits: Splits) -> None:
    """Write what describes the stored cases, the plan last, and remove what belongs to other cases."""
    names = list(fingerprint.cases)
    _remove_other_cases(target / SLICES_FOLDER, names)
    remove_other_measurements(target / MEASUREMENTS_FOLDER, names)
    write_json(fingerprint, target / FINGERPRINT_FILE)
    _copy_descriptions(raw, target)
    write_json(splits, target / SPLITS_FILE)
    write_json(plans, target / PLANS_FILE)


def sweep_all(target: Path) -> None:
    """Remove what killed writers left behind; only for the one that holds ``target`` for itself."""
    for folder in (target, target / SLICES_FOLDER, target / MEASUREMENTS_FOLDER):
        sweep(folder)


def store_case(task: StoreTask) -> bool:
    """Store one case unless it is there, intact and from the same files; return whether it was written.

    Raises:
        DataError: ``E-CASE-04`` when its files are no longer those that were measured.
    """
    if is_stored(task):
        return False
    volumes = tuple(read_volume(path) for path in task.source.raw.channels)
    images, geometry = to_slices(volumes, task.axis)
    del volumes
    labels = labels_to_slices(read_volume(task.source.raw.label), geometry) if task.source.raw.label else None
    if not same_files(task.source, task.fingerprint):
        raise _changed(task.source)
    slices, _, rows, columns = images.shape
    record = StoredCase(
        case=task.source.name,
        subset=task.source.subset,
        shape=(slices, rows, columns),
        dtype=images.dtype.name,
        geometry=geometry,
        intensities=task.fingerprint.volume,
        image_crcs=(),
        label_crcs=None,
        source_digest=task.source_digest,
        label_pixels={} if labels is None else _label_pixels(labels, task.scheme),
    )
    write_case(task.folder, record, images, labels)
    return True


def is_stored(task: StoreTask) -> bool:
    """Whether the case is stored from these very files and intact; every slice is read."""
    try:
        stored = StoredSlices.open(task.folder, task.source.name)
        if stored.record.source_digest != task.source_digest:
            return False
        stored.verify()
    except DataError:
        return False
    return True


def is_recorded(task: StoreTask) -> bool:
    """Whether the record of the case says that it was stored from these very files; nothing else is read."""
    try:
        record = read_json(StoredCase, CasePaths.of(task.folder, task.source.name).record)
    except DataError:
        return False
    return record.source_digest == task.source_digest


def read_plans(target: Path) -> Plans | None:
    """The plan in a preprocessed folder, or None when there is none that can be read."""
    try:
        return read_json(Plans, target / PLANS_FILE)
    except DataError:
        return None


def descriptions_are_current(raw: Path, target: Path) -> bool:
    """Whether dataset.json, samora.json and splits_final.json are those that were planned from."""
    return all(_content(raw / name) == _content(target / name) for name in COPIED)


def _copy_descriptions(raw: Path, target: Path) -> None:
    for name in COPIED:
        content = _content(raw / name)
        if content is None:
            (target / name).unlink(missing_ok=True)
        else:
            write_bytes(target / name, content)


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _remove_other_cases(slices: Path, names: Sequence[str]) -> None:
    wanted: Mapping[Path, None] = {
        path: None
        for name in names
        for paths in [CasePaths.of(slices, name)]
        for path in (paths.images, paths.labels, paths.record)
    }
    for path in slices.iterdir():
        if path.suffix in (".b2nd", ".json") and path not in wanted:
            path.unlink()


def _label_pixels(labels: npt.NDArray[np.uint8], scheme: LabelScheme) -> dict[str, tuple[int, ...]]:
    counts = np.stack([count_labels(slice_labels) for slice_labels in labels])
    return {name: tuple(counts[:, list(values)].sum(axis=1).tolist()) for name, values in scheme.names.items()}


def _changed(source: CaseSource) -> DataError:
    return DataError("E-CASE-04", source=source, found=", ".join(str(path) for path in source.raw.channels))
