"""The licence of a file of weights that does not go by its catalogue name: another name does not change its terms."""

from __future__ import annotations

from pathlib import Path

from samora_pipeline.errors import DataError
from samora_pipeline.run_log import logger
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.records import read_record


def known_licence(digest: str, folder: Path, *files: Path) -> str | None:
    """The licence under which a digest is published, or recorded beside ``files`` or in the weights ``folder``."""
    for asset in ASSETS.values():
        if asset.sha256 == digest:
            return asset.licence
    recorded = (path.with_suffix("") for path in sorted((*folder.glob("*.json"), *folder.glob("*/*.json"))))
    for file in (*files, *recorded):
        try:
            record = read_record(file)
        except DataError:
            # A FILE.json beside a file of the user's own need not be a record.
            continue
        if record is not None and record.sha256 == digest:
            return record.licence
    return None


def licence_of_file(path: Path, digest: str, folder: Path) -> str:
    """Return the licence of a file, or an empty text where none is known.

    It is known by the digest, see ``known_licence``. A file without a record that has the layout of non-commercial
    weights is taken to be those, with a warning.
    """
    from samora_pipeline.weights.recognise import recognise

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
