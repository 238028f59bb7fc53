"""On what terms a file of weights is that does not go by its catalogue name: no other name makes it lose them."""

from __future__ import annotations

from pathlib import Path

from samora_pipeline.errors import DataError
from samora_pipeline.run_log import logger
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.records import read_record


def licence_of_file(path: Path, digest: str, folder: Path) -> str:
    """Return the licence of a file, or an empty text where nobody has told it.

    It is known by the digest: the published one, or one that is recorded beside the file or in the weights ``folder``.
    A file that nobody recorded but that has the layout of non-commercial weights is taken to be those; that is said.
    """
    published = next((asset for asset in ASSETS.values() if asset.sha256 == digest), None)
    if published is not None:
        return published.licence
    for file in (path, *(asset.path(folder) for asset in ASSETS.values() if not asset.packaged)):
        try:
            record = read_record(file)
        except DataError:
            # A FILE.json beside a file of the user's own need not be a record.
            continue
        if record is not None and record.sha256 == digest:
            return record.licence
    return _licence_by_layout(path)


def _licence_by_layout(path: Path) -> str:
    from samora_pipeline.weights.recognise import recognise

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
