"""What is known of a file of weights, written beside it: it says how the digest is known and what its licence is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from samora_pipeline.contracts.json_io import read_json, write_json


@dataclass(frozen=True)
class WeightsRecord:
    """FILE.json beside FILE.

    ``digest_from`` tells a digest that others published from one that was taken from the file when it first came.
    ``accepted`` says that the user accepted a licence which asks for it. ``source`` is an address or a path.
    """

    name: str
    size: int
    sha256: str
    digest_from: Literal["published", "first use"]
    licence: str
    accepted: bool
    source: str
    schema_version: int = 1


def record_path(file: Path) -> Path:
    """Where the record of ``file`` lies."""
    return file.with_name(f"{file.name}.json")


def read_record(file: Path) -> WeightsRecord | None:
    """Return the record of ``file``, or None where there is none.

    Raises:
        DataError: ``E-JSON-02`` or ``E-JSON-03`` when it cannot be understood.
    """
    path = record_path(file)
    return read_json(WeightsRecord, path) if path.is_file() else None


def write_record(file: Path, record: WeightsRecord) -> None:
    """Write the record beside ``file``."""
    write_json(record, record_path(file))
