"""Importing an exported model: all of it is checked before anything is written, and it appears whole or not at all."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from samora_pipeline.contracts.json_io import parse, read_text, to_plain
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, RunConfig
from samora_pipeline.contracts.run_reader import named_code, parse_run_config
from samora_pipeline.contracts.scores import EXPORTED_SCORES_FILE, ExportedScores
from samora_pipeline.errors import DataError
from samora_pipeline.files import atomic_folder, require_space
from samora_pipeline.handover import contents
from samora_pipeline.handover.contents import RUN_PLACE, DigestsJson, ModelJson
from samora_pipeline.handover.packed import PackedModel, damaged, open_packed, refused

T = TypeVar("T")


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
    packed = open_packed(path)
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
        DataError: ``E-IMPORT-06`` the folder is there, ``E-IMPORT-03`` the source changed meanwhile, ``E-CKPT-02``.
        ResourceError: ``E-DISK-01``, ``E-DISK-02``.
    """
    if target.exists():
        raise DataError("E-IMPORT-06", target=target, found=str(target))
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
            raise damaged(verified.packed.path, f"{name} changed while it was read")
    finished = min(max(verified.model.finished, 0.0), time.time())
    for fold in verified.model.folds:
        checkpoint = folder / f"fold_{fold}" / FINAL_CHECKPOINT
        load_checkpoint(checkpoint)
        # So that an import is not taken for the training that was finished last.
        os.utime(checkpoint, (finished, finished))


def _check_digests(packed: PackedModel, digests: DigestsJson) -> None:
    present = set(packed.sizes) - {contents.DIGESTS_FILE}
    if present != set(digests.files):
        odd = ", ".join(sorted(present ^ set(digests.files)))
        raise damaged(packed.path, f"files and {contents.DIGESTS_FILE} differ in {odd}")
    for name, known in digests.files.items():
        size = packed.sizes[name]
        if size != known.size or (digest := packed.digest(name)) != known.sha256:
            found = f"{size:,} bytes instead of {known.size:,}" if size != known.size else f"sha256 {digest}"
            raise damaged(packed.path, f"{name} has {found}")


def _configs(packed: PackedModel, model: ModelJson, allow_code: bool) -> dict[str, RunConfig]:
    """The config of each fold, after comparing what model.json states with what is there."""
    place = f"{model.dataset}/{model.run}"
    if not RUN_PLACE.fullmatch(place):
        raise refused(packed.path, f"{place[:200]!r} as the place of the run")
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
    value: T = parse(cls, _plain(packed, name), str(packed.path / name))
    return value


def _plain(packed: PackedModel, name: str) -> Any:
    try:
        text = b"".join(packed.blocks(name)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(packed.path, f"{name}: {error}") from error
    return read_text(text, packed.path / name)


def _unfit(path: Path, found: str) -> DataError:
    return DataError("E-IMPORT-04", path=path, found=found)
