"""From raw files to the fingerprint: one pass over the files that checks, digests and measures each case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from planners.cases import CaseSource
from planners.integrity import Inspection, inspect_case
from planners.measurements import FileDigests, Measurement, read_measurement, write_measurement
from samora_pipeline.contracts.fingerprint import CaseFingerprint, Fingerprint, IntensityStats
from samora_pipeline.contracts.integrity import Remark
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.errors import DataError
from samora_pipeline.imaging.intensity import measure
from samora_pipeline.imaging.volume import digest_voxels
from samora_pipeline.parallel import Engine

SAMPLES_PER_CASE = 10_000
"""Foreground values that a case contributes to the statistics of the dataset: all cases weigh the same above it."""


@dataclass(frozen=True)
class ExamineTask:
    """One case to examine; ``kept`` is the folder of measurements (None: measure anew and keep nothing)."""

    source: CaseSource
    scheme: LabelScheme
    kept: Path | None


@dataclass(frozen=True)
class Examination:
    """What became of one case: what was measured, or its faults; and whether it was measured before."""

    measured: Measurement | None
    faults: tuple[DataError, ...] = ()
    remarks: tuple[Remark, ...] = ()
    reused: bool = False


@dataclass(frozen=True)
class Survey:
    """All cases of a dataset after the pass: the fingerprint of the sound ones, the faults of the others.

    ``reused`` counts the cases whose files are those that were measured before.
    """

    fingerprint: Fingerprint
    faults: dict[str, list[DataError]] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)
    reused: int = 0


def survey(
    dataset: str,
    sources: Sequence[CaseSource],
    scheme: LabelScheme,
    left_out: frozenset[str],
    engine: Engine,
    kept: Path | None = None,
) -> Survey:
    """Check and measure all cases in one pass over their files; those with a measurement in ``kept`` only by digest.

    The dataset's foreground statistics come from labelled training cases; ``left_out`` (the cases of a published test
    set that lie among them) are measured but not used, because nothing may be chosen on scans that are reported.
    """
    items = [(source.name, ExamineTask(source, scheme, kept)) for source in sources]
    done = engine.map(examine, items, "checking", [source.bytes_on_disk for source in sources])
    cases: dict[str, CaseFingerprint] = {}
    faults: dict[str, list[DataError]] = {}
    remarks: list[Remark] = []
    samples: list[tuple[npt.NDArray[np.float32], ...]] = []
    reused = 0
    channels = len(sources[0].raw.channels) if sources else 0
    for source, outcome in zip(sources, done, strict=True):
        if outcome.result is None or outcome.error is not None:
            raise outcome.error or RuntimeError(f"{source.name} has neither a result nor an error")
        remarks += outcome.result.remarks
        if outcome.result.measured is None:
            faults[source.name] = list(outcome.result.faults)
            continue
        reused += outcome.result.reused
        cases[source.name] = outcome.result.measured.fingerprint
        if source.subset == "train" and source.name not in left_out:
            samples.append(outcome.result.measured.samples)
    return Survey(
        Fingerprint(dataset=dataset, cases=cases, foreground=_pooled(samples, channels)), faults, remarks, reused
    )


def examine(task: ExamineTask) -> Examination:
    """Check one case and, when it has no fault, measure it, unless that was done before."""
    # Before the voxels are read: a file that changes in between then has another digest the next time.
    try:
        digests = FileDigests.of(task.source)
    except OSError as error:
        return Examination(None, (_unreadable(task.source, error),))
    key = digests.key(task.scheme)
    known = read_measurement(task.kept, task.source, key) if task.kept else None
    if known is not None:
        return Examination(known, remarks=known.remarks, reused=True)
    inspection = inspect_case(task.source, task.scheme)
    remarks = tuple(inspection.remarks)
    if inspection.faults:
        return Examination(None, tuple(inspection.faults), remarks)
    measured = _measure_case(task, digests, inspection)
    if task.kept:
        write_measurement(task.kept, task.source, key, measured)
    return Examination(measured, remarks=remarks)


def _unreadable(source: CaseSource, error: OSError) -> DataError:
    return DataError(
        "E-IMG-01",
        what=f'a file of the case "{source.name}" cannot be read',
        found=str(error),
        expected="readable files",
        fix="correct its permissions or the link that leads to it",
    )


def _measure_case(task: ExamineTask, digests: FileDigests, inspection: Inspection) -> Measurement:
    values = _foreground(inspection, task.scheme)
    grid = inspection.volumes[0].grid
    fingerprint = CaseFingerprint(
        subset=task.source.subset,
        shape=grid.shape,
        spacing=grid.spacing,
        axes=grid.axes,
        image_digests=digests.images,
        label_digest=digests.label,
        volume=tuple(measure(volume.array) for volume in inspection.volumes),
        foreground=tuple(measure(inside) if inside.size else None for inside in values),
        voxel_digests=tuple(digest_voxels(volume) for volume in inspection.volumes),
        label_voxels=_label_voxels(inspection, task.scheme),
    )
    return Measurement(fingerprint, tuple(_sample(inside) for inside in values), tuple(inspection.remarks))


def same_files(source: CaseSource, known: CaseFingerprint) -> bool:
    """Whether a raw case is still the one that was measured: same subset and same bytes."""
    if source.subset != known.subset or (source.raw.label is None) != (known.label_digest is None):
        return False
    return FileDigests.of(source) == FileDigests(known.image_digests, known.label_digest)


def _foreground(inspection: Inspection, scheme: LabelScheme) -> list[npt.NDArray[np.generic]]:
    """The values of each channel under a foreground label."""
    if inspection.labels is None:
        return [volume.array.ravel("K")[:0] for volume in inspection.volumes]
    table = np.zeros(256, dtype=np.bool_)
    table[[value for values in scheme.names.values() for value in values]] = True
    # Files are stored with X running fastest; transposed, all arrays are walked in the order of memory.
    labels = inspection.labels.T
    planes = _span(labels.any(axis=(1, 2)))
    rows = _span(labels[planes].any(axis=(0, 2)))
    mask = table[labels[planes, rows]]
    return [volume.array.T[planes, rows][mask] for volume in inspection.volumes]


def _span(used: npt.ArrayLike) -> slice:
    positions = np.flatnonzero(used)
    return slice(int(positions[0]), int(positions[-1]) + 1) if positions.size else slice(0, 0)


def _label_voxels(inspection: Inspection, scheme: LabelScheme) -> dict[str, int]:
    if inspection.label_counts is None:
        return {}
    return {name: int(inspection.label_counts[list(values)].sum()) for name, values in scheme.names.items()}


def _sample(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Evenly spaced values of the sorted foreground: a sample without chance and with the right quantiles."""
    if values.size <= SAMPLES_PER_CASE:
        return values.astype(np.float32)
    positions = np.linspace(0, values.size - 1, SAMPLES_PER_CASE).astype(np.int64)
    sample: npt.NDArray[np.float32] = np.sort(values)[positions].astype(np.float32)
    return sample


def _pooled(samples: Sequence[tuple[npt.NDArray[np.float32], ...]], channels: int) -> tuple[IntensityStats | None, ...]:
    pooled = [
        np.concatenate([np.empty(0, np.float32), *(case[index] for case in samples)]) for index in range(channels)
    ]
    return tuple(measure(values) if values.size else None for values in pooled)
