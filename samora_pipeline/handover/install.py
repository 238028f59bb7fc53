"""Taking an exported model in: all of it is checked before anything is written, and it appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from samora_pipeline.contracts.json_io import parse, read_text
from samora_pipeline.contracts.run import CONFIG_FILE, FINAL_CHECKPOINT, RunConfig
from samora_pipeline.contracts.scores import EXPORTED_SCORES_FILE, ExportedScores
from samora_pipeline.errors import DataError, ResourceError
from samora_pipeline.files import atomic_folder
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


def verify(path: Path, *, allow_code: bool = False) -> Verified:
    """Check an exported model; nothing is written.

    Raises:
        AssetError: ``E-IMPORT-01`` no exported model. DataError: ``E-IMPORT-02`` something no export holds,
            ``E-IMPORT-03`` damaged or changed, ``E-IMPORT-04`` parts that do not fit together, ``E-IMPORT-05`` it needs
            code of its own and ``allow_code`` is off, ``E-JSON-..`` a description of another form.
    """
    packed = open_packed(path)
    missing = [name for name in contents.REQUIRED if name not in packed.sizes]
    if missing:
        raise _unfit(path, f"no {', '.join(missing)}")
    digests = _parsed(DigestsJson, packed, contents.DIGESTS_FILE)
    _check_digests(packed, digests)
    model = _parsed(ModelJson, packed, contents.MODEL_FILE)
    configs = _configs(packed, model)
    for name in packed.sizes:
        if name.endswith(f"/{EXPORTED_SCORES_FILE}"):
            _parsed(ExportedScores, packed, name)
    _check_code(path, configs.values(), allow_code)
    return Verified(packed, digests, model, configs)


def install(verified: Verified, target: Path) -> None:
    """Write a verified model to the new folder ``target``, atomically.

    Raises:
        DataError: ``E-IMPORT-06`` the folder is there, ``E-IMPORT-03`` the source changed meanwhile, ``E-CKPT-02``.
        ResourceError: ``E-DISK-01``, ``E-DISK-02``.
    """
    if target.exists():
        raise DataError(
            "E-IMPORT-06",
            "there is a run of this name already",
            found=str(target),
            expected="a folder that is not there yet",
            fix=f"-o {target}_imported  puts it beside",
        )
    made = _missing_parents(target)
    existing = next(parent for parent in target.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(existing).free
    if free < verified.size:
        raise ResourceError(
            "E-DISK-02",
            f"there is not enough space for {verified.packed.path.name}",
            found=f"{free:,} bytes free in {existing}",
            expected=f"{verified.size:,} bytes",
            fix=f"df -h {existing}  then free space, or choose another folder with -o",
        )
    try:
        with atomic_folder(target) as folder:
            _unpack(verified, folder)
    except BaseException:
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        raise


def _unpack(verified: Verified, folder: Path) -> None:
    from samora_pipeline.contracts.checkpoints import load_checkpoint

    for name in verified.packed.sizes:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        digest = hashlib.sha256()
        with path.open("wb") as stream:
            for block in verified.packed.blocks(name):
                digest.update(block)
                stream.write(block)
        known = verified.digests.files.get(name)
        if known is not None and digest.hexdigest() != known.sha256:
            raise damaged(verified.packed.path, f"{name} changed while it was read")
    finished = min(max(verified.model.finished, 0.0), time.time())
    for fold in verified.model.folds:
        checkpoint = folder / f"fold_{fold}" / FINAL_CHECKPOINT
        load_checkpoint(checkpoint)
        # So that an import is not taken for the training that was finished last.
        os.utime(checkpoint, (finished, finished))


def _missing_parents(target: Path) -> list[Path]:
    """Folders above the target that are not there yet, the deepest first."""
    return [parent for parent in target.absolute().parents if not parent.exists()]


def _check_digests(packed: PackedModel, digests: DigestsJson) -> None:
    present = set(packed.sizes) - {contents.DIGESTS_FILE}
    if present != set(digests.files):
        odd = ", ".join(sorted(present ^ set(digests.files)))
        raise damaged(packed.path, f"files and {contents.DIGESTS_FILE} differ in {odd}")
    for name, known in digests.files.items():
        if packed.sizes[name] != known.size:
            raise damaged(packed.path, f"{name} has {packed.sizes[name]:,} bytes instead of {known.size:,}")
        if (digest := packed.digest(name)) != known.sha256:
            raise damaged(packed.path, f"{name} has sha256 {digest} instead of {known.sha256}")


def _configs(packed: PackedModel, model: ModelJson) -> dict[str, RunConfig]:
    """The config of each fold, after comparing what model.json states with what is there."""
    place = f"{model.dataset}/{model.run}"
    if not RUN_PLACE.fullmatch(place):
        raise refused(packed.path, f"{place[:200]!r} as the place of the run")
    folders = {name.partition("/")[0] for name in packed.sizes if "/" in name}
    if not model.folds or folders != {f"fold_{fold}" for fold in model.folds}:
        raise _unfit(packed.path, f"folds {', '.join(model.folds)} are stated, {', '.join(sorted(folders))} are there")
    absent = [name for name in _needed(model) if name not in packed.sizes]
    if absent:
        raise _unfit(packed.path, f"no {', '.join(absent)}")
    configs = {fold: _parsed(RunConfig, packed, f"fold_{fold}/{CONFIG_FILE}") for fold in model.folds}
    known = {base.digest for base in model.bases}
    for fold, config in configs.items():
        if config.dataset != model.dataset or config.base.digest not in known:
            raise _unfit(packed.path, f"fold_{fold} is of another dataset or on another base than {place}")
    return configs


def _needed(model: ModelJson) -> list[str]:
    folds = [f"fold_{fold}/{name}" for fold in model.folds for name in (CONFIG_FILE, FINAL_CHECKPOINT)]
    return [*folds, *(base.file for base in model.bases if base.file)]


def _check_code(path: Path, configs: Iterable[RunConfig], allowed: bool) -> None:
    specs = [config.model for config in configs]
    named = {part for spec in specs for part in (spec.backbone, spec.decoder, spec.fusion.name if spec.fusion else "")}
    code = sorted(part for part in named if ":" in part)
    if code and not allowed:
        raise DataError(
            "E-IMPORT-05",
            f"{path.name} runs code that is no part of this package",
            found=", ".join(code),
            expected="a network made of parts of samora_pipeline",
            fix="if you know and trust that code, and it is installed here: --allow-code",
        )


def _parsed(cls: type[T], packed: PackedModel, name: str) -> T:
    where = packed.path / name
    try:
        text = packed.read(name).decode("utf-8")
    except UnicodeDecodeError as error:
        raise damaged(packed.path, f"{name}: {error}") from error
    value: Any = parse(cls, read_text(text, where), str(where))
    return value  # type: ignore[no-any-return]


def _unfit(path: Path, found: str) -> DataError:
    return DataError(
        "E-IMPORT-04",
        f"the parts of {path.name} do not fit together; nothing was written",
        found=found,
        expected="one run with its folds, as samora_export writes it",
        fix="export the run again",
    )
