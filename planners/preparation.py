"""The steps of one dataset in their order: list, check and measure, decide, split, store; the plan is written last.

Before every case has passed the checks nothing is written but what is known about them: the report integrity.json
and the measurements of sound cases, so that a repaired dataset is checked again in the time of its repaired cases.
A case that is already stored from the same files is verified and kept; one that is missing, stale or damaged is
written again. A kill at any moment loses at most the case being written.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from planners.cases import (
    CaseSource,
    count_labels,
    dataset_remarks,
    integrity_report,
    list_cases,
    missing_images,
    require_sound,
)
from planners.experiment_planner import DEFAULT_PLANNER, PLANNERS, channel_names, make_plan, require_known
from planners.fingerprint_extractor import MEASUREMENTS_FOLDER, Survey, remove_other_measurements, same_files, survey
from planners.overrides import check_keys
from planners.split_planner import NNUNET_SPLITS_FILE, SplitPlanner, leak_notes
from samora_pipeline.contracts.dataset import RawDataset, read_dataset
from samora_pipeline.contracts.failures import FAILURES_FILE, Failure, printable, write_failures
from samora_pipeline.contracts.fingerprint import FINGERPRINT_FILE, CaseFingerprint, Fingerprint
from samora_pipeline.contracts.integrity import INTEGRITY_FILE, IntegrityReport
from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import PLANS_FILE, Plans, SliceAxis
from samora_pipeline.contracts.splits import SPLITS_FILE, Splits
from samora_pipeline.contracts.stored_case import SLICES_FOLDER, StoredCase, read_stored_case
from samora_pipeline.errors import DataError, SamoraError
from samora_pipeline.files import digest_json, sweep, write_bytes
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.volume import labels_to_slices, on_grid_of, to_slices
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


def store_cases(target: Path, plans: Plans, tasks: Sequence[StoreTask], engine: Engine) -> int:
    """Store the cases of ``tasks`` that are not there yet in ``target`` (preprocessed/DatasetNNN_Name); count them.

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
    return sum(outcome.result is True for outcome in outcomes)


def conclude(target: Path, raw: Path, fingerprint: Fingerprint, plans: Plans, splits: Splits) -> None:
    """Write what describes the stored cases, the plan last, and remove what belongs to other cases."""
    names = list(fingerprint.cases)
    slices = target / SLICES_FOLDER
    wanted = {path for name in names for path in vars(CasePaths.of(slices, name)).values()}
    for path in slices.iterdir():
        if path.suffix in (".b2nd", ".json") and path not in wanted:
            path.unlink()
    remove_other_measurements(target / MEASUREMENTS_FOLDER, names)
    write_json(fingerprint, target / FINGERPRINT_FILE)
    for name in COPIED:
        content = _content(raw / name)
        if content is None:
            (target / name).unlink(missing_ok=True)
        else:
            write_bytes(target / name, content)
    write_json(splits, target / SPLITS_FILE)
    write_json(plans, target / PLANS_FILE)


def store_case(task: StoreTask) -> bool:
    """Store one case unless it is there, intact and from the same files; return whether it was written.

    Raises:
        DataError: ``E-CASE-04`` when its files are no longer those that were measured.
    """
    if is_stored(task):
        return False
    volumes = tuple(read_volume(path) for path in task.source.raw.channels)
    images, geometry = to_slices(volumes, task.axis)
    label = on_grid_of(volumes[0], read_volume(task.source.raw.label)) if task.source.raw.label else None
    del volumes
    labels = labels_to_slices(label, geometry) if label else None
    if not same_files(task.source, task.fingerprint):
        shown = ", ".join(str(path) for path in task.source.raw.channels)
        raise DataError("E-CASE-04", source=task.source, found=shown)
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
        blank_slices=() if labels is None else _blank_slices(labels, task.scheme),
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
    """Whether the record of the case says that it was stored from these very files; nothing else is read.

    Raises:
        DataError: there is no record that can be read.
    """
    record = read_stored_case(CasePaths.of(task.folder, task.source.name).record)
    return record.source_digest == task.source_digest


def read_plans(target: Path) -> Plans | None:
    """The plan in a preprocessed folder, or None when there is none that can be read."""
    try:
        return read_json(Plans, target / PLANS_FILE)
    except DataError:
        return None


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _blank_slices(labels: npt.NDArray[np.uint8], scheme: LabelScheme) -> tuple[int, ...]:
    return tuple(index for index, one in enumerate(labels) if (one == scheme.ignore).all())


def _label_pixels(labels: npt.NDArray[np.uint8], scheme: LabelScheme) -> dict[str, tuple[int, ...]]:
    counts = np.stack([count_labels(slice_labels) for slice_labels in labels])
    return {name: tuple(counts[:, list(values)].sum(axis=1).tolist()) for name, values in scheme.names.items()}


@dataclass(frozen=True)
class Request:
    """What is asked for: a raw dataset, its preprocessed folder, settings, and what works on the cases.

    ``planner``: a name of ``PLANNERS`` or ``package.module:Class``. ``skipped``: go on without faulty cases.
    ``anew``: measure again what was measured before, and keep nothing.
    """

    raw: Path
    target: Path
    overrides: Mapping[str, str]
    engine: Engine
    planner: str = DEFAULT_PLANNER
    skipped: bool = False
    anew: bool = False


@dataclass(frozen=True)
class Prepared:
    """A dataset after planning and storing; cases that were ``written``, and ``kept`` as they were."""

    plans: Plans
    splits: Splits
    notes: tuple[str, ...]
    written: int
    kept: int


def open_dataset(raw: Path, overrides: Mapping[str, str]) -> RawDataset:
    """Read the description of a dataset.

    Raises:
        UsageError: ``E-SET-01`` for an override that no plan has.
        DataError: ``E-DATA-01`` no dataset.json, ``E-CHAN-03`` a channel name that says nothing.
    """
    dataset = read_dataset(raw)
    names = channel_names(dataset)
    check_keys(overrides, len(names))
    require_known(names, overrides)
    return dataset


def check(request: Request, dataset: RawDataset) -> Survey:
    """Check and measure every case, and write all findings to integrity.json whatever they are.

    Raises:
        DataError: ``E-DATA-04`` no case at all; for faulty cases the fault or ``E-DATA-02`` (with ``skipped`` only
            when no case is left).
    """
    sources, faults = list_cases(dataset)
    if not sources and not faults:
        raise DataError("E-DATA-04", raw=request.raw, found=f"no image in {request.raw}/imagesTr, imagesTs or imagesUn")
    total = len(sources) + len(faults)
    published = dataset.ours.published_split
    left_out = frozenset(published.test if published else ())
    kept = None if request.anew else request.target / MEASUREMENTS_FOLDER
    engine, known = request.engine, dataset.ours.spacing_known
    found = survey(dataset.folder.name, sources, dataset.scheme, left_out, engine, kept, spacing_known=known)
    faults |= found.faults
    skipped = {printable(case): errors[0].code for case, errors in faults.items()}
    found.fingerprint = replace(found.fingerprint, skipped=skipped)
    stated, orphans = dataset.description.numTraining, missing_images(dataset, sources)
    found.remarks += dataset_remarks(found.fingerprint, channel_names(dataset), dataset.scheme, stated, orphans)
    going_on = request.skipped and bool(found.sources)
    report = request.target / INTEGRITY_FILE
    write_json(integrity_report(request.raw.name, total, going_on, faults, found.remarks), report)
    failures = {case: Failure.of(case, errors[0]) for case, errors in faults.items() if going_on}
    write_failures(failures, request.target / FAILURES_FILE)
    if not going_on:
        require_sound(request.raw.name, faults, total, report)
    return found


def prepare(request: Request, dataset: RawDataset, checked: Survey) -> Prepared:
    """Decide plan and splits and bring the preprocessed folder up to date; values edited in plans.json stay.

    Raises:
        UsageError: ``E-SET-02``, ``E-SET-03``, ``E-NAME-01``.
        DataError, ResourceError: ``E-CASE-04``, ``E-DISK-01``, ``E-MEM-18``.
    """
    target, fingerprint = request.target, checked.fingerprint
    before = read_plans(target)
    edited = {key: value for key, value in (before.edited if before else {}).items() if key not in request.overrides}
    plans, notes = make_plan(request.planner, dataset, fingerprint, request.overrides, edited)
    notes += _dropped_settings(target, before, plans)
    axis = plans.slice_axis.value
    tasks = store_tasks(dataset, checked.sources, fingerprint, target, axis)
    previous = read_json(Splits, target / SPLITS_FILE) if (target / SPLITS_FILE).is_file() else None
    splits, remarks = SplitPlanner(dataset, fingerprint, axis).plan(
        previous, before.slice_axis.value if before else None
    )
    for folder in (target, target / SLICES_FOLDER, target / MEASUREMENTS_FOLDER):
        sweep(folder)
    written = store_cases(target, plans, tasks, request.engine)
    conclude(target, request.raw, fingerprint, plans, splits)
    notes += (*remarks, *leak_notes(dataset, fingerprint, splits))
    return Prepared(plans, splits, notes, written, len(tasks) - written)


def is_current(raw: Path, target: Path) -> bool:
    """Whether a dataset is planned and stored from exactly the files that are in the raw folder, by their digests.

    A dataset in which the last check found a fault is not current, nor is a plan that planning again would change. A
    planner from outside, which nobody has named, is not run: its plan is current while the data are.
    """
    try:
        dataset = read_dataset(raw)
        sources, faults = list_cases(dataset)
        known, plans = read_json(Fingerprint, target / FINGERPRINT_FILE), read_json(Plans, target / PLANS_FILE)
        report = read_json(IntegrityReport, target / INTEGRITY_FILE)
        if faults or report.faults or known.skipped or not (target / SPLITS_FILE).is_file():
            return False
        if [source.name for source in sources] != list(known.cases) or any(
            _content(raw / name) != _content(target / name) for name in COPIED
        ):
            return False
        if not all(same_files(source, known.cases[source.name]) for source in sources):
            return False
        if plans.planner not in PLANNERS.names():
            decided = plans.fingerprint_digest == digest_json(to_plain(known))
        else:
            decided = make_plan(plans.planner, dataset, known, plans.overrides, plans.edited)[0] == plans
        tasks = store_tasks(dataset, sources, known, target, plans.slice_axis.value)
        return decided and all(is_recorded(task) for task in tasks)
    except SamoraError:
        return False


def store_tasks(
    dataset: RawDataset, sources: Sequence[CaseSource], fingerprint: Fingerprint, target: Path, axis: SliceAxis
) -> list[StoreTask]:
    """One task per case, to store it or to see whether it is stored."""
    cases = fingerprint.cases
    return [StoreTask(source, cases[source.name], dataset.scheme, axis, target / SLICES_FOLDER) for source in sources]


def _dropped_settings(target: Path, before: Plans | None, after: Plans) -> tuple[str, ...]:
    """Sentences about what the plan before had and this one no longer has."""
    if before is None:
        unread = (target / PLANS_FILE).is_file()
        return (f"{PLANS_FILE} could not be read by this version and was written anew",) if unread else ()
    notes = [
        f"{key} is decided from the data again: the plan before had it set by --set {key}={text} "
        "(repeat that option to keep it)"
        for key, text in before.overrides.items()
        if key not in after.overrides and key not in before.edited
    ]
    notes += [f"{key} was edited by hand; --set takes its place" for key in before.edited if key in after.overrides]
    if before.planner != after.planner:
        notes.append(
            f"planned by {after.planner}; the plan before was by {before.planner} (--planner {before.planner} keeps it)"
        )
    return tuple(notes)
