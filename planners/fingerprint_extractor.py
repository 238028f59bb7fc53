"""From raw files to the fingerprint: one pass over the files that checks, digests and measures each case.

What was measured is kept beside the preprocessed slices, so that only changed cases are measured again:
``.fingerprints/CASE.npz`` holds a record (JSON) and the case's foreground samples; the archive's own checksums tell
damage. A measurement is used again when its key is the same: the digests of the case's files and the declaration of
the labels.
"""

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from planners.cases import CaseSource, Inspection, inspect_case
from samora_pipeline.contracts.fingerprint import CaseFingerprint, Fingerprint, IntensityStats
from samora_pipeline.contracts.integrity import Remark
from samora_pipeline.contracts.json_io import parse, to_plain
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_file, digest_json, require_regular, write_bytes
from samora_pipeline.imaging.intensity import measure
from samora_pipeline.imaging.volume import digest_voxels
from samora_pipeline.parallel import Engine

MEASUREMENTS_FOLDER = ".fingerprints"


SAMPLES_PER_CASE = 10_000
"""Foreground values that a case contributes to the statistics of the dataset: all cases weigh the same above it."""


@dataclass(frozen=True)
class FileDigests:
    """SHA-256 of a case's files."""

    images: tuple[str, ...]
    label: str | None

    @classmethod
    def of(cls, source: CaseSource) -> "FileDigests":
        """Read and digest the files of a case."""
        label = source.raw.label
        return cls(tuple(digest_file(path) for path in source.raw.channels), digest_file(label) if label else None)

    def key(self, scheme: LabelScheme) -> str:
        """Another key means that the case must be measured again."""
        return digest_json({**to_plain(self), "labels": to_plain(scheme), "version": Fingerprint().schema_version})


@dataclass(frozen=True)
class Measurement:
    """A sound case: its fingerprint, foreground samples (per channel [n], float32) and what is doubtful about it."""

    fingerprint: CaseFingerprint
    samples: tuple[npt.NDArray[np.float32], ...]
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class _Record:
    key: str
    fingerprint: CaseFingerprint
    remarks: tuple[Remark, ...]
    schema_version: int = 1


def read_measurement(folder: Path, source: CaseSource, key: str) -> Measurement | None:
    """The kept measurement of a case, or None when there is none with this key that can be read."""
    try:
        require_regular(_path(folder, source.name))
        with np.load(_path(folder, source.name), allow_pickle=False) as archive:
            record = parse(_Record, json.loads(archive["record"].tobytes()), source.name)
            samples = tuple(archive["samples"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, DataError):
        return None
    if record.key != key:
        return None
    return Measurement(replace(record.fingerprint, subset=source.subset), samples, record.remarks)


def write_measurement(folder: Path, source: CaseSource, key: str, measured: Measurement) -> None:
    """Keep the measurement of a case. Equal measurements give equal bytes.

    Raises:
        ResourceError: ``E-DISK-01`` when the disk is full.
    """
    record = json.dumps(to_plain(_Record(key, measured.fingerprint, measured.remarks)), allow_nan=False)
    stream = io.BytesIO()
    np.savez(stream, record=np.frombuffer(record.encode(), np.uint8), samples=np.stack(measured.samples))
    write_bytes(_path(folder, source.name), stream.getvalue())


def remove_other_measurements(folder: Path, names: Sequence[str]) -> None:
    """Remove the measurements of cases that are not among ``names``."""
    wanted = {_path(folder, name) for name in names}
    for path in folder.glob("*.npz"):
        if path not in wanted:
            path.unlink(missing_ok=True)


def _path(folder: Path, case: str) -> Path:
    return folder / f"{case}.npz"


@dataclass(frozen=True)
class Examination:
    """What became of one case: what was measured, or its faults; and whether it was measured before."""

    measured: Measurement | None
    faults: tuple[DataError, ...] = ()
    remarks: tuple[Remark, ...] = ()
    reused: bool = False


@dataclass
class Survey:
    """All cases of a dataset after the pass: the sound ones and their fingerprint, the faults of the others.

    ``reused`` counts the cases whose files are those that were measured before.
    """

    fingerprint: Fingerprint
    sources: list[CaseSource] = field(default_factory=list)
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
    *,
    spacing_known: bool = False,
) -> Survey:
    """Check and measure all cases in one pass over their files; those with a measurement in ``kept`` only by digest.

    The dataset's foreground statistics come from labelled training cases; ``left_out`` (the cases of a published test
    set that lie among them) are measured but not used, because nothing may be chosen on scans that are reported.
    ``spacing_known``: the dataset has spacings in mm, so that a case that states none is faulty.
    """
    items = [(source.name, source) for source in sources]
    work = partial(examine, scheme=scheme, kept=kept)
    done = engine.map(work, items, "checking", [source.bytes_on_disk for source in sources])
    found = Survey(Fingerprint(dataset=dataset))
    cases: dict[str, CaseFingerprint] = {}
    samples: list[tuple[npt.NDArray[np.float32], ...]] = []
    for source, outcome in zip(sources, done, strict=True):
        if outcome.result is None or outcome.error is not None:
            raise outcome.error or RuntimeError(f"{source.name} has neither a result nor an error")
        found.remarks += outcome.result.remarks
        if outcome.result.measured is None:
            found.faults[source.name] = list(outcome.result.faults)
            continue
        if spacing_known and outcome.result.measured.fingerprint.spacing is None:
            found.faults[source.name] = [_no_spacing(source)]
            continue
        found.reused += outcome.result.reused
        found.sources.append(source)
        cases[source.name] = outcome.result.measured.fingerprint
        if source.subset == "train" and source.name not in left_out:
            samples.append(outcome.result.measured.samples)
    channels = len(sources[0].raw.channels) if sources else 0
    found.fingerprint = Fingerprint(dataset=dataset, cases=cases, foreground=_pooled(samples, channels))
    return found


def _no_spacing(source: CaseSource) -> DataError:
    path = source.raw.channels[0]
    why, otherwise = "samora.json says that it is known", ', or set "spacing_known": false in samora.json'
    return DataError("E-GEO-03", path=path, why=why, otherwise=otherwise, found=str(path))


def examine(source: CaseSource, scheme: LabelScheme, kept: Path | None) -> Examination:
    """Check one case and, when it has no fault, measure it, unless that was done before.

    ``kept`` is the folder of measurements (None: measure anew and keep nothing).
    """
    # Before the voxels are read: a file that changes in between then has another digest the next time.
    try:
        digests = FileDigests.of(source)
    except OSError as error:
        path = Path(error.filename or source.raw.channels[0])
        found = f"a link to {path.readlink()}, which is not there" if path.is_symlink() else error.strerror
        return Examination(None, (DataError("E-IMG-07", path=path, found=f"{found} ({path})"),))
    key = digests.key(scheme)
    known = read_measurement(kept, source, key) if kept else None
    if known is not None:
        return Examination(known, remarks=known.remarks, reused=True)
    inspection = inspect_case(source, scheme)
    remarks = tuple(inspection.remarks)
    if inspection.faults:
        return Examination(None, tuple(inspection.faults), remarks)
    measured = _measure_case(source, scheme, digests, inspection)
    if kept:
        write_measurement(kept, source, key, measured)
    return Examination(measured, remarks=remarks)


def _measure_case(source: CaseSource, scheme: LabelScheme, digests: FileDigests, inspection: Inspection) -> Measurement:
    values, counts = _foreground(inspection, scheme), inspection.label_counts
    grid = inspection.volumes[0].grid
    fingerprint = CaseFingerprint(
        subset=source.subset,
        shape=grid.shape,
        spacing=grid.spacing,
        axes=grid.axes,
        image_digests=digests.images,
        label_digest=digests.label,
        volume=tuple(measure(volume.array) for volume in inspection.volumes),
        foreground=tuple(measure(inside) if inside.size else None for inside in values),
        voxel_digests=tuple(digest_voxels(volume) for volume in inspection.volumes),
        label_voxels={}
        if counts is None
        else {name: int(counts[list(values)].sum()) for name, values in scheme.names.items()},
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


def _sample(values: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Evenly spaced values of the sorted foreground: a sample without chance and with the right quantiles."""
    if values.size <= SAMPLES_PER_CASE:
        return values.astype(np.float32)
    positions = np.linspace(0, values.size - 1, SAMPLES_PER_CASE).astype(np.int64)
    return np.sort(values)[positions].astype(np.float32)


def _pooled(samples: Sequence[tuple[npt.NDArray[np.float32], ...]], channels: int) -> tuple[IntensityStats | None, ...]:
    pooled = [
        np.concatenate([np.empty(0, np.float32), *(case[index] for case in samples)]) for index in range(channels)
    ]
    return tuple(measure(values) if values.size else None for values in pooled)
