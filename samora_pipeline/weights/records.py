"""What is known of a file of weights: the record beside it, and its licence, which another name does not change."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from samora_pipeline.contracts.json_io import read_json, write_json
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_file
from samora_pipeline.run_log import logger
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.recognise import recognise


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


def read_record(file: Path) -> WeightsRecord | None:
    """Return the record of ``file``, or None where there is none.

    Raises:
        DataError: ``E-JSON-02`` or ``E-JSON-03`` when it cannot be understood.
    """
    path = file.with_name(f"{file.name}.json")
    return read_json(WeightsRecord, path) if path.is_file() else None


def write_record(file: Path, record: WeightsRecord) -> None:
    """Write the record beside ``file``."""
    write_json(record, file.with_name(f"{file.name}.json"))


def known_licence(digest: str, folder: Path, *files: Path) -> str | None:
    """The licence under which a digest is published, or recorded beside ``files`` or in the weights ``folder``.

    Raises:
        DataError: ``E-JSON-02`` the record beside the file with this digest is damaged.
    """
    for asset in ASSETS.values():
        if asset.sha256 == digest:
            return asset.licence
    recorded = (path.with_suffix("") for path in sorted((*folder.glob("*.json"), *folder.glob("*/*.json"))))
    for file in (*files, *recorded):
        try:
            record = read_record(file)
        except DataError as error:
            # A FILE.json beside a file of the user's own need not be a record; what is no JSON was one, or cannot tell.
            if error.code == "E-JSON-02" and file.is_file() and digest_file(file) == digest:
                raise
            continue
        if record is not None and record.sha256 == digest:
            return record.licence
    return None


def licence_of_file(path: Path, digest: str, folder: Path) -> str:
    """Return the licence of a file, or an empty text where none is known.

    It is known by the digest, see ``known_licence``. A file without a record that has the layout of non-commercial
    weights is taken to be those, with a warning.
    """
    licence = known_licence(digest, folder, path)
    if licence is not None:
        return licence
    try:
        asset = ASSETS[recognise(path)]
    except DataError:
        return ""
    if not asset.non_commercial:
        return ""
    logger.warning(
        "%s has the layout of %s: its licence, %s, is taken to hold, and is named in whatever is made with it",
        path.name,
        asset.name,
        asset.licence,
    )
    return asset.licence
