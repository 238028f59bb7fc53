"""Importing an exported model that may come from anywhere: all of it is checked before the first byte is written.

Only listed names are accepted, so a name cannot lead out of the folder. Weights are never compressed in an export and
texts are small, so nothing can expand beyond its stated size. The model appears whole or not at all.
"""

import hashlib
import os
import stat
import struct
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from samora_pipeline.contracts.json_io import parse, read_text, to_plain
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, RunConfig
from samora_pipeline.contracts.run_reader import named_code, parse_run_config
from samora_pipeline.contracts.scores import EXPORTED_SCORES_FILE, ExportedScores
from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.exported import contents
from samora_pipeline.exported.contents import RUN_PLACE, DigestsJson, FileDigest, ModelJson, kind_of
from samora_pipeline.files import atomic_folder, require_space, sweep

_LARGEST_TEXT = 16 << 20
_MOST_FILES = 200
_BLOCK = 1 << 20
# What a damaged zip makes of zipfile; RuntimeError and NotImplementedError are for passwords and unknown compressions.
_UNREADABLE = (
    *(zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError),
    *(NotImplementedError, RuntimeError, ValueError, LookupError, OverflowError),
)

T = TypeVar("T")


@dataclass(frozen=True)
class PackedModel:
    """An exported model, packed or as a folder: the size in bytes of each file by name, after all were checked."""

    path: Path
    sizes: dict[str, int]

    def digest(self, name: str, copy: IO[bytes] | None = None) -> str:
        """The SHA-256 of one file, which is also written to ``copy`` where that is given.

        Raises:
            DataError: ``E-IMPORT-03`` when the file cannot be read, or has another size than it states.
        """
        digest = hashlib.sha256()
        for block in self.blocks(name):
            digest.update(block)
            if copy is not None:
                copy.write(block)
        return digest.hexdigest()

    def blocks(self, name: str) -> Iterator[bytes]:
        """The bytes of one file, piece by piece; raises as ``digest``."""
        root = self.path if self.path.is_dir() else zipfile.Path(self.path)
        left = self.sizes[name]
        try:
            with root.joinpath(name).open("rb") as stream:
                while left >= 0 and (block := stream.read(_BLOCK)):
                    left -= len(block)
                    yield block
        except _UNREADABLE as error:
            raise _damaged(self.path, f"{name}: {error}") from error
        if left:
            raise _damaged(self.path, f"{name} does not have the {self.sizes[name]:,} bytes that it states")


def _open(path: Path) -> PackedModel:
    """Check every entry of a zip, or every file of a folder.

    Raises:
        AssetError: ``E-IMPORT-01`` nothing there, or no zip.
        DataError: ``E-IMPORT-02`` an entry that no export has, ``E-IMPORT-03`` a damaged directory of the zip.
    """
    if path.is_dir():
        return _checked(path, ((file.relative_to(path).as_posix(), *_file_state(file)) for file in _walk(path)))
    if not path.is_file() or not zipfile.is_zipfile(path):
        raise AssetError("E-IMPORT-01", found=f"no zip: {path}" if path.is_file() else f"no file or folder {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except _UNREADABLE as error:
        raise _damaged(path, str(error)) from error
    # The name as it is written, of which zipfile's own is a cleaned copy.
    model = _checked(path, ((entry.orig_filename, entry.file_size, _entry_fault(entry)) for entry in entries))
    if sum(entry.compress_size for entry in entries) > path.stat().st_size:
        raise _refused(path, "entries that share their bytes")
    return model


@dataclass(frozen=True)
class Verified:
    """An exported model whose every file has the size and the digest that it was exported with."""

    packed: PackedModel
    digests: DigestsJson
    model: ModelJson
    configs: dict[str, RunConfig]

    @property
    def place(self) -> PurePosixPath:
        """Where it belongs below a results folder: ``DatasetNNN_Name/RUN``."""
        return PurePosixPath(self.model.dataset, self.model.run)

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(self.packed.sizes.values())

    @property
    def code(self) -> tuple[str, ...]:
        """What its configs name as code (``package.module:Class``)."""
        return named_code([to_plain(config) for config in self.configs.values()])


def verify(path: Path, *, allow_code: bool = False) -> Verified:
    """Check an exported model; nothing is written, and nothing that it names is imported.

    Raises:
        AssetError: ``E-IMPORT-01`` no exported model. DataError: ``E-IMPORT-02`` something no export holds,
            ``E-IMPORT-03`` damaged or changed, ``E-IMPORT-04`` parts that do not fit together, ``E-CODE-01`` it names
            code and ``allow_code`` is off, ``E-JSON-..`` a description of another form.
    """
    packed = _open(path)
    _require(packed, contents.REQUIRED)
    digests = _parsed(DigestsJson, packed, contents.DIGESTS_FILE)
    _check_digests(packed, digests)
    model = _parsed(ModelJson, packed, contents.MODEL_FILE)
    configs = _configs(packed, model, allow_code)
    for name in packed.sizes:
        if name.endswith(f"/{EXPORTED_SCORES_FILE}"):
            _parsed(ExportedScores, packed, name)
    return Verified(packed, digests, model, configs)


def install(verified: Verified, target: Path) -> None:
    """Write a verified model to the new folder ``target``, atomically.

    Raises:
        DataError: ``E-IMPORT-06`` the folder is there, ``E-IMPORT-03`` the source changed meanwhile, ``E-IMPORT-04``
            a checkpoint of another description, ``E-CKPT-02``.
        ResourceError: ``E-DISK-01``, ``E-DISK-02``.
    """
    if target.exists():
        raise DataError("E-IMPORT-06", target=target, found=str(target))
    sweep(target.parent, target.name)
    require_space(target, verified.size)
    missing = [parent for parent in target.absolute().parents if not parent.exists()]
    try:
        with atomic_folder(target) as folder:
            _unpack(verified, folder)
    except BaseException:
        for parent in missing:
            with suppress(OSError):
                parent.rmdir()
        raise


def _unpack(verified: Verified, folder: Path) -> None:
    from samora_pipeline.contracts.checkpoints import load_checkpoint

    for name in verified.packed.sizes:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as stream:
            digest = verified.packed.digest(name, copy=stream)
        known = verified.digests.files.get(name)
        if known is not None and digest != known.sha256:
            raise _damaged(verified.packed.path, f"{name} changed while it was read")
    finished = min(max(verified.model.finished, 0.0), time.time())
    for fold in verified.model.folds:
        checkpoint = folder / f"fold_{fold}" / FINAL_CHECKPOINT
        trained_with = load_checkpoint(checkpoint).record.get("config_digest")
        if trained_with not in (None, verified.configs[fold].deciding_digest):
            raise _unfit(verified.packed.path, f"fold_{fold} was trained with another {CONFIG_FILE}")
        # So that an import is not taken for the training that was finished last.
        os.utime(checkpoint, (finished, finished))


def _check_digests(packed: PackedModel, digests: DigestsJson) -> None:
    for name in sorted((packed.sizes.keys() - {contents.DIGESTS_FILE}) | digests.files.keys()):
        found = FileDigest(packed.sizes[name], packed.digest(name)) if name in packed.sizes else None
        if found != digests.files.get(name):
            raise _damaged(packed.path, f"{name} is {found}; stated is {digests.files.get(name)}")


def _configs(packed: PackedModel, model: ModelJson, allow_code: bool) -> dict[str, RunConfig]:
    """The config of each fold, after comparing what model.json states with what is there."""
    place = f"{model.dataset}/{model.run}"
    if not RUN_PLACE.fullmatch(place):
        raise _refused(packed.path, f"{place[:200]!r} as the place of the run")
    folders = {name.partition("/")[0] for name in packed.sizes if "/" in name}
    if not model.folds or folders != {f"fold_{fold}" for fold in model.folds}:
        raise _unfit(packed.path, f"folds {', '.join(model.folds)} are stated, {', '.join(sorted(folders))} are there")
    files = [f"fold_{fold}/{name}" for fold in model.folds for name in (CONFIG_FILE, FINAL_CHECKPOINT)]
    _require(packed, [*files, *(base.file for base in model.bases if base.file)])
    known = {base.digest for base in model.bases}
    configs = {}
    for fold in model.folds:
        name = f"fold_{fold}/{CONFIG_FILE}"
        config = parse_run_config(_plain(packed, name), packed.path / name, allow_code=allow_code)
        if config.dataset != model.dataset or (config.base and config.base.digest not in known):
            raise _unfit(packed.path, f"fold_{fold} is of another dataset or on another base than {place}")
        configs[fold] = config
    return configs


def _require(packed: PackedModel, names: tuple[str, ...] | list[str]) -> None:
    absent = [name for name in names if name not in packed.sizes]
    if absent:
        raise _unfit(packed.path, f"no {', '.join(absent)}")


def _parsed(cls: type[T], packed: PackedModel, name: str) -> T:
    return parse(cls, _plain(packed, name), str(packed.path / name))


def _plain(packed: PackedModel, name: str) -> Any:
    try:
        text = b"".join(packed.blocks(name)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged(packed.path, f"{name}: {error}") from error
    return read_text(text, packed.path / name)


def _unfit(path: Path, found: str) -> DataError:
    return DataError("E-IMPORT-04", path=path, found=found)


def _refused(path: Path, found: str) -> DataError:
    """The error for something that no export holds."""
    return DataError("E-IMPORT-02", path=path, found=found)


def _damaged(path: Path, found: str) -> DataError:
    """The error for a file that is not what it states of itself."""
    return DataError("E-IMPORT-03", path=path, found=found)


def _checked(path: Path, entries: Iterable[tuple[str, int, str]]) -> PackedModel:
    """The model of entries (name, bytes, fault), each of which is a plain file with the name of a file of an export."""
    sizes: dict[str, int] = {}
    seen: set[str] = set()
    for name, size, fault in entries:
        kind = kind_of(name)
        if kind is None:
            fault = "no name of a file in an export"
        elif kind == "text" and size > _LARGEST_TEXT:
            fault = f"a text of {size:,} bytes"
        elif name.casefold() in seen:
            fault = "there twice (upper and lower case count as one)"
        elif len(seen) == _MOST_FILES:
            fault = f"more than {_MOST_FILES} entries"
        if fault:
            raise _refused(path, f"{name[:200]!r}: {fault}")
        seen.add(name.casefold())
        sizes[name] = size
    if (texts := sum(size for name, size in sizes.items() if kind_of(name) == "text")) > 2 * _LARGEST_TEXT:
        raise _refused(path, f"texts of {texts:,} bytes in all")
    return PackedModel(path, sizes)


def _entry_fault(entry: zipfile.ZipInfo) -> str:
    """What is wrong with an entry of a zip beside its name and its size; empty when nothing is."""
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        return "a link, a folder or a device"
    if entry.compress_type == zipfile.ZIP_STORED:
        return ""
    text = entry.compress_type == zipfile.ZIP_DEFLATED and kind_of(entry.filename) == "text"
    return "" if text else "packed in an unusual way"


def _file_state(path: Path) -> tuple[int, str]:
    """The bytes of a file in a folder, and what is wrong with it beside its name."""
    state = path.lstat()
    if not stat.S_ISREG(state.st_mode):
        return 0, "a link or a device"
    return state.st_size, "a file with a second name elsewhere (a hard link)" if state.st_nlink > 1 else ""


def _walk(root: Path) -> Iterator[Path]:
    """Everything in a folder and in the folders directly below it; links to folders are not followed."""
    for entry in sorted(root.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            yield from sorted(entry.iterdir())
        else:
            yield entry
