"""The base encoders of an export: which may go with it, and under which name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.errors import DataError
from samora_pipeline.handover.contents import SharedBase
from samora_pipeline.handover.terms import REDISTRIBUTABLE, UNKNOWN
from samora_pipeline.inference.loading import find_base
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.records import read_record

_OWN = "trained by this run's own pipeline"


def shared_bases(
    configs: Mapping[str, RunConfig], folders: Mapping[str, Path], weights: Path, *, with_base: bool
) -> tuple[tuple[SharedBase, ...], dict[str, Path]]:
    """The bases of the folds, each once, and the files that go with the export by their names there.

    A base goes with it where the pipeline trained it itself, or where its licence (in the catalogue, or in the record
    beside the file) allows to hand it on; the others are named by their digest. A base that is not at hand is not
    looked for unless it should be part.

    Raises:
        AssetError: ``E-WEIGHT-05`` not there. DataError: ``E-WEIGHT-09`` another digest.
    """
    by_digest: dict[str, list[str]] = {}
    for fold, config in configs.items():
        by_digest.setdefault(config.base.digest, []).append(fold)
    bases: list[SharedBase] = []
    files: dict[str, Path] = {}
    for digest, folds in by_digest.items():
        config = configs[folds[0]]
        licence = licence_of(config, folders[folds[0]], weights)
        why = "left out on demand" if not with_base else _reason(config, licence)
        names = []
        if with_base and _may_go(config, licence):
            file = find_base(config.base, folders[folds[0]], weights)
            places = [f"fold_{fold}/" for fold in folds] if len(by_digest) > 1 else [""]
            names = [f"{place}base{file.suffix.lower()}" for place in places]
            files |= dict.fromkeys(names, file)
        shown = Path(config.base.name).name
        bases.append(SharedBase(shown, digest, licence, names[0] if names else "", why, tuple(folds)))
    return tuple(bases), files


def licence_of(config: RunConfig, folder: Path, weights: Path) -> str:
    """The licence of a base: of the catalogue by digest, of the record beside its file, or an empty text."""
    known = next((asset for asset in ASSETS.values() if asset.sha256 == config.base.digest), None)
    if known is not None:
        return known.licence
    if config.base.origin == "bootstrap":
        return _OWN
    beside = [*weights.glob("*.json"), *weights.glob("*/*.json")] if weights.is_dir() else []
    for path in sorted(beside):
        try:
            record = read_record(path.with_suffix(""))
        except DataError:
            continue
        if record is not None and record.sha256 == config.base.digest:
            return record.licence
    return ""


def _may_go(config: RunConfig, licence: str) -> bool:
    return config.base.origin == "bootstrap" or licence in REDISTRIBUTABLE


def _reason(config: RunConfig, licence: str) -> str:
    if config.base.origin == "bootstrap":
        return _OWN
    if licence in REDISTRIBUTABLE:
        return f"{licence} allows to hand it on"
    return f"its licence, {licence or UNKNOWN}, is none of those that are known to allow it"
