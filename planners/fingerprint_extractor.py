"""From raw files to the fingerprint: one pass over the files that checks, digests and measures each case."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from planners.cases import CaseSource
from planners.integrity import Inspection, Remark, inspect_case
from samora_pipeline.contracts.fingerprint import CaseFingerprint, Fingerprint, IntensityStats
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_file
from samora_pipeline.imaging.intensity import measure
from samora_pipeline.imaging.volume import Volume
from samora_pipeline.imaging.voxel_digest import digest_voxels
from samora_pipeline.parallel import map_cases

SAMPLES_PER_CASE = 10_000
"""Foreground values that a case contributes to the statistics of the dataset: all cases weigh the same above it."""


@dataclass(frozen=True)
class Examination:
    """What became of one case: its fingerprint and foreground samples (per channel), or its faults."""

    fingerprint: CaseFingerprint | None
    samples: tuple[npt.NDArray[np.float32], ...]
    faults: tuple[DataError, ...]
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class Survey:
    """All cases of a dataset after the pass: the fingerprint of the sound ones, the faults of the others."""

    fingerprint: Fingerprint
    faults: dict[str, list[DataError]] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)


def survey(
    dataset: str, sources: Sequence[CaseSource], scheme: LabelScheme, left_out: frozenset[str], workers: int
) -> Survey:
    """Check and measure all cases in one pass over their files.

    The dataset's foreground statistics come from labelled training cases; ``left_out`` (the cases of a published test
    set that lie among them) are measured but not used, because nothing may be chosen on scans that are reported.
    """
    items = [(source.name, (source, scheme)) for source in sources]
    outcomes = map_cases(examine, items, workers, "checking")
    cases: dict[str, CaseFingerprint] = {}
    faults: dict[str, list[DataError]] = {}
    remarks: list[Remark] = []
    samples: list[tuple[npt.NDArray[np.float32], ...]] = []
    channels = len(sources[0].raw.channels) if sources else 0
    for source, outcome in zip(sources, outcomes, strict=True):
        if outcome.result is None or outcome.error is not None:
            raise outcome.error or RuntimeError(f"{source.name} has neither a result nor an error")
        remarks += outcome.result.remarks
        if outcome.result.fingerprint is None:
            faults[source.name] = list(outcome.result.faults)
            continue
        cases[source.name] = outcome.result.fingerprint
        if source.subset == "train" and source.name not in left_out:
            samples.append(outcome.result.samples)
    return Survey(Fingerprint(dataset=dataset, cases=cases, foreground=_pooled(samples, channels)), faults, remarks)


def examine(item: tuple[CaseSource, LabelScheme]) -> Examination:
    """Check one case and, when it has no fault, measure it."""
    source, scheme = item
    inspection = inspect_case(source, scheme)
    remarks = tuple(inspection.remarks)
    if inspection.faults:
        return Examination(None, (), tuple(inspection.faults), remarks)
    foreground = _foreground(inspection, scheme)
    values = [_select(volume, foreground) for volume in inspection.volumes]
    grid = inspection.volumes[0].grid
    fingerprint = CaseFingerprint(
        subset=source.subset,
        shape=grid.shape,
        spacing=grid.spacing,
        axes=grid.axes,
        image_digests=tuple(digest_file(path) for path in source.raw.channels),
        label_digest=digest_file(source.raw.label) if source.raw.label else None,
        volume=tuple(measure(volume.array) for volume in inspection.volumes),
        foreground=tuple(measure(inside) if inside.size else None for inside in values),
        voxel_digests=tuple(digest_voxels(volume) for volume in inspection.volumes),
        label_voxels=_label_voxels(inspection, scheme),
    )
    return Examination(fingerprint, tuple(_sample(inside) for inside in values), (), remarks)


def same_files(source: CaseSource, known: CaseFingerprint) -> bool:
    """Whether a raw case is still the one that was measured: same subset and same bytes."""
    raw = source.raw
    if source.subset != known.subset or (raw.label is None) != (known.label_digest is None):
        return False
    if len(raw.channels) != len(known.image_digests):
        return False
    pairs = [
        *zip(raw.channels, known.image_digests, strict=True),
        *([(raw.label, known.label_digest)] if raw.label else []),
    ]
    return all(digest_file(path) == digest for path, digest in pairs)


def _foreground(inspection: Inspection, scheme: LabelScheme) -> npt.NDArray[np.bool_] | None:
    if inspection.labels is None:
        return None
    table = np.zeros(256, dtype=np.bool_)
    table[[value for values in scheme.names.values() for value in values]] = True
    return table[inspection.labels.T].T


def _select(volume: Volume, mask: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.generic]:
    if mask is None:
        return volume.array.ravel("K")[:0]
    # Files are stored with X running fastest; transposed, both arrays are walked in the order of memory.
    return volume.array.T[mask.T]


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
