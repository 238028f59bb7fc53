"""The steps of one dataset in their order: list, check and measure, decide, split, store.

Nothing is written before every case has passed the checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from planners.cases import CaseSource, list_cases, missing_images
from planners.experiment_planner import ExperimentPlanner, channel_names
from planners.fingerprint_extractor import Survey, same_files, survey
from planners.integrity import Remark, dataset_remarks, require_sound
from planners.intensity_names import require_known
from planners.leakage import leak_notes
from planners.overrides import SET_MARK, check_keys, ruled_channels
from planners.preprocess import (
    StoreAccount,
    StoreTask,
    descriptions_are_current,
    is_stored,
    read_plans,
    write_preprocessed,
)
from planners.split_planner import PreviousSplits, SplitPlanner
from samora_pipeline.contracts.dataset import RawDataset, read_dataset
from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, Fingerprint
from samora_pipeline.contracts.json_io import read_json, to_plain
from samora_pipeline.contracts.plans import Planned, Plans, SliceAxis
from samora_pipeline.contracts.splits import SPLITS_FILE, Splits
from samora_pipeline.contracts.stored_case import SLICES_FOLDER
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_json
from samora_pipeline.parallel import suggest_workers


@dataclass(frozen=True)
class Checked:
    """A dataset after its checks: the cases to go on with, what was measured, and what was set aside (with codes)."""

    dataset: RawDataset
    sources: tuple[CaseSource, ...]
    fingerprint: Fingerprint
    remarks: tuple[Remark, ...]
    reused: bool


@dataclass(frozen=True)
class Prepared:
    """A dataset after planning and storing."""

    plans: Plans
    splits: Splits
    notes: tuple[str, ...]
    stored: StoreAccount


def check(
    raw: Path, target: Path, overrides: Mapping[str, str], set_aside: bool, workers: int | None, reuse: bool
) -> Checked:
    """Read the description and check and measure every case.

    With ``reuse`` the fingerprint in ``target`` is taken when every file is still the one it was measured from.

    Raises:
        UsageError: ``E-SET-01`` for an override that no plan has.
        DataError: ``E-DATA-01`` no dataset.json, ``E-CHAN-03`` a channel name that says nothing, ``E-DATA-04`` no
            case at all; for faulty cases the fault or ``E-DATA-02`` (with ``set_aside`` only when no case is left).
    """
    dataset = read_dataset(raw)
    names = channel_names(dataset)
    check_keys(overrides, len(names))
    require_known(names, ruled_channels(overrides))
    sources, faults = list_cases(dataset)
    if not sources and not faults:
        raise _no_cases(raw)
    known = known_fingerprint(dataset, sources, target) if reuse and not faults else None
    if known is not None:
        return Checked(dataset, tuple(sources), known, _remarks(dataset, known, names, sources), reused=True)
    total = len(sources) + len(faults)
    found = _survey(dataset, sources, workers)
    faults |= found.faults
    if not set_aside or not found.fingerprint.cases:
        require_sound(raw.name, faults, total)
    fingerprint = replace(found.fingerprint, set_aside={case: errors[0].code for case, errors in faults.items()})
    sound = tuple(source for source in sources if source.name in fingerprint.cases)
    remarks = (*found.remarks, *_remarks(dataset, fingerprint, names, sources))
    return Checked(dataset, sound, fingerprint, remarks, reused=False)


def prepare(checked: Checked, target: Path, overrides: Mapping[str, str], workers: int | None) -> Prepared:
    """Decide plan and splits and bring the preprocessed folder up to date.

    Raises:
        UsageError: ``E-SET-02``; DataError: ``E-SPLIT-06``; ResourceError: ``E-DISK-01``, ``E-LOCK-01``, ``E-MEM-18``.
    """
    plans = ExperimentPlanner(checked.dataset, checked.fingerprint, overrides).plan()
    dropped = _dropped_settings(read_plans(target), plans)
    planned = SplitPlanner(checked.dataset, checked.fingerprint, plans.slice_axis.value).plan(_previous(target))
    tasks = _tasks(checked, target, plans.slice_axis.value)
    stored = write_preprocessed(
        target,
        checked.dataset.folder,
        checked.fingerprint,
        plans,
        planned.splits,
        tasks,
        _workers(checked.sources, workers),
    )
    leaks = leak_notes(checked.dataset, checked.fingerprint, planned.splits)
    return Prepared(plans, planned.splits, (*dropped, *planned.notes, *leaks), stored)


def is_current(raw: Path, target: Path) -> bool:
    """Whether a dataset is planned and stored from exactly the files that are in the raw folder."""
    try:
        dataset = read_dataset(raw)
        sources, faults = list_cases(dataset)
        known = known_fingerprint(dataset, sources, target)
        plans = read_plans(target)
    except DataError:
        return False
    if faults or known is None or plans is None or not (target / SPLITS_FILE).is_file():
        return False
    if plans.fingerprint_digest != digest_json(to_plain(known)):
        return False
    checked = Checked(dataset, tuple(sources), known, (), reused=True)
    return all(is_stored(task, verify=False) for task in _tasks(checked, target, plans.slice_axis.value))


def known_fingerprint(dataset: RawDataset, sources: list[CaseSource], target: Path) -> Fingerprint | None:
    """The fingerprint in ``target``, when descriptions and all files are still those it was measured from."""
    if not descriptions_are_current(dataset.folder, target):
        return None
    try:
        known = read_json(Fingerprint, target / FINGERPRINT_FILE)
    except DataError:
        return None
    if known.set_aside or [source.name for source in sources] != list(known.cases):
        return None
    return known if all(same_files(source, known.cases[source.name]) for source in sources) else None


def _survey(dataset: RawDataset, sources: list[CaseSource], workers: int | None) -> Survey:
    published = dataset.ours.published_split
    left_out = frozenset(published.test if published else ())
    return survey(dataset.folder.name, sources, dataset.scheme, left_out, _workers(sources, workers))


def _remarks(
    dataset: RawDataset, fingerprint: Fingerprint, names: tuple[str, ...], sources: list[CaseSource]
) -> tuple[Remark, ...]:
    orphans = missing_images(dataset, sources)
    return tuple(dataset_remarks(fingerprint, names, dataset.scheme, dataset.description.numTraining, orphans))


def _tasks(checked: Checked, target: Path, axis: SliceAxis) -> list[StoreTask]:
    cases = checked.fingerprint.cases
    return [
        StoreTask(source, cases[source.name], checked.dataset.scheme, axis, target / SLICES_FOLDER)
        for source in checked.sources
    ]


def _previous(target: Path) -> PreviousSplits | None:
    if not (target / SPLITS_FILE).is_file():
        return None
    plans = read_plans(target)
    return PreviousSplits(read_json(Splits, target / SPLITS_FILE), plans.slice_axis.value if plans else None)


def _dropped_settings(before: Plans | None, after: Plans) -> tuple[str, ...]:
    """Sentences about values that the plan before had from ``--set`` and that are decided from the data again."""
    if before is None:
        return ()
    return tuple(
        f"{name} is decided from the data again: the plan before had it {old.why} (repeat that option to keep it)"
        for name, old, new in (
            (field.name, getattr(before, field.name), getattr(after, field.name)) for field in fields(Plans)
        )
        if isinstance(old, Planned) and SET_MARK in old.why and SET_MARK not in new.why
    )


def _workers(sources: tuple[CaseSource, ...] | list[CaseSource], wanted: int | None) -> int:
    return wanted if wanted is not None else suggest_workers([source.bytes_on_disk for source in sources])


def _no_cases(raw: Path) -> DataError:
    return DataError(
        "E-DATA-04",
        f"{raw.name} has no cases",
        found=f"no image in {raw}/imagesTr, imagesTs or imagesUn",
        expected="files such as CASE_0000.nii.gz, with the file_ending of dataset.json",
        fix="samora_convert -d list  shows the converters that write a raw dataset",
    )
