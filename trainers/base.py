"""The frozen base encoder of a run: public, packaged, a file of the user's, or still to be bootstrapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.run import BaseRecord
from samora_pipeline.files import digest_file
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.obtain import find
from trainers.artefacts import Artefact, bootstrap_artefact
from trainers.config import Settings
from trainers.request import BOOTSTRAP


@dataclass(frozen=True)
class Base:
    """``file`` is None where the encoder is not there yet: it is trained (``bootstrap``) or fetched (``awaited``)."""

    record: BaseRecord
    file: Path | None = None
    bootstrap: Artefact | None = None

    @property
    def awaited(self) -> bool:
        """Whether it is a public file that has to be fetched; its published digest is known already."""
        return self.file is None and self.bootstrap is None

    @property
    def identity(self) -> str:
        """What stands for the base in the keys of experts; known before a bootstrap has run."""
        return f"{BOOTSTRAP}/{self.bootstrap.key}" if self.bootstrap else self.record.digest


def find_base(name_or_path: str, weights: Path) -> Base:
    """Find a base by catalogue name or path; a public file must have the published digest, or may be missing still.

    Raises:
        AssetError: ``E-WEIGHT-05`` not there and not to be fetched, with the ways on. DataError: ``E-WEIGHT-06``
            another content.
    """
    asset = ASSETS.get(name_or_path)
    if asset is not None and asset.fetchable and asset.sha256 and not asset.path(weights).is_file():
        return Base(BaseRecord(asset.name, asset.sha256, "public"))
    found = find(name_or_path, weights)
    return Base(BaseRecord(found.name, found.digest, found.origin), found.path)


def fetch_base(base: Base, weights: Path) -> Path:
    """Fetch a base that is awaited. Ranks and other processes wait for the one that fetches.

    Raises:
        AssetError: ``E-WEIGHT-05`` it cannot be fetched, with the ways on. DataError: ``E-WEIGHT-06``.
            ResourceError: ``E-DISK-01``, ``E-DISK-02``.
    """
    return find(base.record.name, weights, fetch=True).path


def bootstrapped_base(common: Mapping[str, Any], settings: Settings, pretraining: Path) -> Base:
    """A base that is trained on the pool; its digest is known once it is there."""
    artefact = bootstrap_artefact(common, settings, pretraining)
    digest = digest_file(artefact.file) if artefact.done else ""
    return Base(BaseRecord(BOOTSTRAP, digest, "bootstrap"), artefact.file if artefact.done else None, artefact)
