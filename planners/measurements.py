"""What was measured of each case, kept beside the preprocessed slices so that only changed cases are measured again.

``.fingerprints/CASE.npz`` holds a record (JSON) and the case's foreground samples; the archive's own checksums tell
damage. A measurement is used again when its key is the same: the digests of the case's files and the declaration of
the labels.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from planners.cases import CaseSource
from samora_pipeline.contracts.fingerprint import CaseFingerprint, Fingerprint
from samora_pipeline.contracts.integrity import Remark
from samora_pipeline.contracts.json_io import parse, to_plain
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_file, digest_json, write_bytes

MEASUREMENTS_FOLDER = ".fingerprints"


@dataclass(frozen=True)
class FileDigests:
    """SHA-256 of a case's files."""

    images: tuple[str, ...]
    label: str | None

    @classmethod
    def of(cls, source: CaseSource) -> FileDigests:
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
