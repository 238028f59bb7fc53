"""The frozen base encoder of a run: public, packaged, a file of the user's, or still to be bootstrapped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.run import BaseRecord
from samora_pipeline.files import digest_file
from samora_pipeline.weights.catalog import ASSETS, resolve, verify
from trainers.artefacts import Artefact, bootstrap_artefact
from trainers.config import Settings
from trainers.request import BOOTSTRAP


@dataclass(frozen=True)
class Base:
    """``file`` is None and ``bootstrap`` set where the encoder itself is trained first."""

    record: BaseRecord
    file: Path | None = None
    bootstrap: Artefact | None = None

    @property
    def identity(self) -> str:
        """What stands for the base in the keys of experts; known before a bootstrap has run."""
        return f"{BOOTSTRAP}/{self.bootstrap.key}" if self.bootstrap else self.record.digest


def find_base(name_or_path: str, weights: Path) -> Base:
    """Find a base by catalogue name or path; a public file must have the published digest.

    Raises:
        AssetError: ``E-WEIGHT-05`` not there, with the ways on. DataError: ``E-WEIGHT-06`` another content.
    """
    file = resolve(name_or_path, weights)
    asset = ASSETS.get(name_or_path)
    if asset is None:
        return Base(BaseRecord(str(file), digest_file(file), "file"), file)
    return Base(BaseRecord(asset.name, verify(asset, file), "packaged" if asset.packaged else "public"), file)


def bootstrapped_base(common: Mapping[str, Any], settings: Settings, pretraining: Path) -> Base:
    """A base that is trained on the pool; its digest is known once it is there."""
    artefact = bootstrap_artefact(common, settings, pretraining)
    digest = digest_file(artefact.file) if artefact.done else ""
    return Base(BaseRecord(BOOTSTRAP, digest, "bootstrap"), artefact.file if artefact.done else None, artefact)
