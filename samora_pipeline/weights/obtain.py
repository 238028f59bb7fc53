"""Getting weights, by network or from a file of the user's, and finding them again with their digest and licence.

A file has its final name only after its content was checked: against the published digest, or, where none is
published, for the layout of the network; its digest is then recorded, and compared from the second use on.
"""

import hashlib
import os
import shutil
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from samora_pipeline.errors import AssetError, DataError, ResourceError
from samora_pipeline.files import atomic_path, digest_file, in_turn, require_space
from samora_pipeline.run_log import logger
from samora_pipeline.weights.catalog import ASSETS, PART_SUFFIX, Asset, missing, named, resolve, verify, wrong
from samora_pipeline.weights.download import PATIENCE, Patience, discard, download
from samora_pipeline.weights.recognise import LAYOUTS, recognise
from samora_pipeline.weights.records import WeightsRecord, licence_of_file, read_record, write_record


@dataclass(frozen=True)
class Weights:
    """A file of weights that was checked. ``licence`` is empty for a file whose terms nobody has told."""

    name: str
    path: Path
    digest: str
    origin: Literal["public", "packaged", "file"]
    licence: str


def find(name_or_path: str, folder: Path, *, fetch: bool = False) -> Weights:
    """Find weights by catalogue name, by file name in the weights ``folder``, or by path, and check them.

    With ``fetch``, public weights that are not there are fetched, unless their licence asks to be accepted first.

    Raises:
        AssetError: ``E-WEIGHT-05`` not there, with the ways on; ``E-WEIGHT-11`` the licence was not accepted.
        DataError: ``E-WEIGHT-06`` another content than published or recorded.
    """
    asset = ASSETS.get(name_or_path)
    if asset is None:
        path = resolve(name_or_path, folder)
        digest = digest_file(path)
        return Weights(str(path), path, digest, "file", licence_of_file(path, digest, folder))
    for needed in asset.needs:
        find(needed, folder, fetch=fetch)
    path = asset.path(folder)
    if not path.is_file():
        if not (fetch and asset.fetchable):
            raise missing(asset, path)
        try:
            get(asset.name, folder)
        except AssetError as error:
            raise missing(asset, path, tried=error.found) from error
    return Weights(asset.name, path, check(asset, path), "packaged" if asset.packaged else "public", asset.licence)


def check(asset: Asset, path: Path) -> str:
    """Return the digest of a file that is there, after comparing it with the published or the recorded one.

    Raises:
        DataError: ``E-WEIGHT-06``. AssetError: ``E-WEIGHT-11``.
    """
    record = read_record(path)
    digest = verify(asset, path, record.sha256 if record else None)
    if record is None and not asset.packaged:
        _check_licence(asset, accepted=False, command=f"samora_weights add {path}")
        _check_unpublished(asset, path, digest)
        if asset.sha256 is None:
            try:
                _record(asset, path, digest, str(path), accepted=False)
            except ResourceError as error:
                logger.warning("%s: the digest could not be recorded (%s)", path.name, error.found)
    return digest


def get(name: str, folder: Path, *, accept: bool = False, patience: Patience = PATIENCE) -> Path:
    """Fetch weights into ``folder`` unless they are there; return their path. ``accept`` accepts the licence.

    Raises:
        UsageError: ``E-NAME-01``. AssetError: ``E-WEIGHT-10`` the source cannot be reached, ``E-WEIGHT-11`` the
            licence has to be accepted. DataError: ``E-WEIGHT-06``, ``E-WEIGHT-12`` wrong content. ResourceError:
            ``E-DISK-01``, ``E-DISK-02``.
    """
    asset = named(name)
    for needed in asset.needs:
        get(needed, folder, accept=accept, patience=patience)
    path = asset.path(folder)
    if asset.packaged:
        return path
    logger.info("%s: %s", asset.name, asset.terms)
    record = read_record(path)
    _check_licence(asset, accept or (record is not None and record.accepted), f"samora_weights get {name}")
    with _turn(asset, path):
        if path.is_file():
            digest = verify(asset, path, record.sha256 if record else None)
            logger.info("%s: already there, content checked: %s", asset.name, path)
            if read_record(path) is None:
                _record(asset, path, digest, str(path), accept)
        else:
            _fetch(asset, path, accept, patience)
    return path


def add(file: Path, folder: Path, *, link: bool = False, accept: bool = False) -> Asset:
    """Take a file into the weights ``folder`` under its catalogue name, as a copy or a link; no network is used.

    Raises:
        AssetError: ``E-WEIGHT-05`` no such file, ``E-WEIGHT-11``. DataError: ``E-WEIGHT-06`` not the published
            content, ``E-WEIGHT-07`` not readable, ``E-WEIGHT-12`` none of the catalogue, ``E-WEIGHT-13`` another file
            is in its place. ResourceError: ``E-DISK-01``, ``E-DISK-02``.
    """
    from samora_pipeline.weights.files import data_length, is_index

    if not file.is_file():
        raise AssetError("E-WEIGHT-05", found=f"no file {file.absolute()}", fix="correct the path")
    digest = digest_file(file)
    asset = _identify(file, digest)
    _check_licence(asset, accept, f"samora_weights add {file}")
    _check_unpublished(asset, file, digest)
    for needed in asset.needs:
        part = file.with_name(Path(ASSETS[needed].file).name)
        if not part.is_file():
            raise missing(ASSETS[needed], part)
        part_digest = digest_file(part)
        if is_index(file) and part.stat().st_size < (wanted := data_length(file)):
            raise wrong(ASSETS[needed], part, part_digest, f"cut short: the index tells of {wanted:,} bytes")
        _take(ASSETS[needed], part, part_digest, folder, link=link, accept=accept)
    _take(asset, file, digest, folder, link=link, accept=accept)
    return asset


def _fetch(asset: Asset, path: Path, accept: bool, patience: Patience) -> None:
    part = path.with_name(f"{path.name}{PART_SUFFIX}")
    download(asset.url, part, title=asset.name, size=asset.size, patience=patience)
    try:
        digest = verify(asset, part)
        _check_unpublished(asset, part, digest)
    except DataError:
        discard(part)
        raise
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(path)
    discard(part)
    _record(asset, path, digest, asset.url, accept)
    logger.info("%s: fetched, content checked: %s", asset.name, path)


def _identify(file: Path, digest: str) -> Asset:
    """The asset a file is: by its digest, else by its layout."""
    for asset in ASSETS.values():
        if asset.sha256 == digest:
            return asset
    try:
        asset = ASSETS[recognise(file)]
    except DataError as error:
        claimed = next((asset for asset in ASSETS.values() if Path(asset.file).name == file.name), None)
        if claimed is not None and claimed.sha256 is not None:
            raise wrong(claimed, file, digest) from error
        raise
    if asset.sha256 is not None:
        raise DataError(
            "E-WEIGHT-06",
            what=f"{file.name}: the network of {asset.name}, but not its published content",
            found=f"{file.stat().st_size:,} bytes, sha256 {digest}",
            expected=f"{asset.size or 0:,} bytes, sha256 {asset.sha256}",
            fix=f"samora_weights get {asset.name}; weights of your own need no adding: --backbone-weights {file}",
        )
    return asset


def _take(asset: Asset, file: Path, digest: str, folder: Path, *, link: bool, accept: bool) -> None:
    path = asset.path(folder)
    with _turn(asset, path):
        if path.is_file():
            if digest_file(path) != digest:
                raise DataError("E-WEIGHT-13", asset=asset, digest=digest, file=file, path=path, found=str(path))
        else:
            require_space(path, 0 if link else file.stat().st_size)
            with atomic_path(path) as temporary:
                if link:
                    temporary.symlink_to(file.resolve())
                else:
                    shutil.copyfile(file, temporary)
        _record(asset, path, digest, str(file.absolute()), accept)


def _check_unpublished(asset: Asset, path: Path, digest: str) -> None:
    """A file without a published digest must at least be the right network, and begin its MD5 as published."""
    if asset.sha256 is not None:
        return
    if asset.md5_start:
        with path.open("rb") as stream:
            md5 = hashlib.file_digest(stream, "md5").hexdigest()
        if not md5.startswith(asset.md5_start):
            raise wrong(asset, path, digest, f"its md5 is {md5}, published is {asset.md5_start}...")
    if asset.name in LAYOUTS:
        try:
            found = f"the layout of {(name := recognise(path))}"
        except DataError as error:
            raise wrong(asset, path, digest, error.found) from error
        if name != asset.name:
            raise wrong(asset, path, digest, found)


def _check_licence(asset: Asset, accepted: bool, command: str) -> None:
    if asset.non_commercial and not accepted:
        found = f"{asset.licence} (https://creativecommons.org/licenses/by-nc/4.0/), not accepted yet"
        raise AssetError("E-WEIGHT-11", asset=asset, command=command, found=found)


def _record(asset: Asset, path: Path, digest: str, source: str, accepted: bool) -> None:
    published = asset.sha256 is not None
    record = WeightsRecord(
        name=asset.name,
        size=path.stat().st_size,
        sha256=digest,
        digest_from="published" if published else "first use",
        licence=asset.licence,
        accepted=accepted and asset.non_commercial,
        source=source,
    )
    write_record(path, record)
    if not published:
        logger.info("%s: no digest is published for it; recorded at first use: sha256 %s", asset.name, digest)


def _turn(asset: Asset, path: Path) -> AbstractContextManager[None]:
    waiting = partial(logger.info, "%s: another process is getting it; waiting", asset.name)
    return in_turn(path.with_name(f".{path.name}.lock"), waiting)
