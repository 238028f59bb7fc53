"""The base encoder of a run, and a network on it: public, packaged, a file of the user's, or trained on the pool."""

from dataclasses import dataclass
from pathlib import Path

from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.run import BaseRecord
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.reproducibility import seed_everything
from samora_pipeline.run_log import logger
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.obtain import find
from samora_pipeline.weights.sam_checkpoint import load_base
from trainers.settings import BOOTSTRAP


@dataclass(frozen=True)
class BaseEncoder:
    """``file`` is None where the encoder is not there yet: it is trained first, or a public file has to be fetched."""

    record: BaseRecord
    file: Path | None = None

    @property
    def is_bootstrapped(self) -> bool:
        """Whether it is trained on the pool; its digest is known once it is there."""
        return self.record.origin == BOOTSTRAP

    @property
    def awaited(self) -> bool:
        """Whether it is a public file that has to be fetched; its published digest is known already."""
        return self.file is None and not self.is_bootstrapped

    def fetched(self, weights: Path) -> Path:
        """Its file. Ranks and other processes wait for the one that fetches.

        Raises:
            AssetError: ``E-WEIGHT-05`` it cannot be fetched, with the ways on. DataError: ``E-WEIGHT-06``.
                ResourceError: ``E-DISK-01``, ``E-DISK-02``.
        """
        return self.file or find(self.record.name, weights, fetch=True).path


def find_base(name_or_path: str, weights: Path) -> BaseEncoder:
    """Find a base by catalogue name or path; a public file must have the published digest, or may be missing still.

    Raises:
        AssetError: ``E-WEIGHT-05`` not there and not to be fetched, with the ways on. DataError: ``E-WEIGHT-06``
            another content.
    """
    if name_or_path == BOOTSTRAP:
        return BaseEncoder(BaseRecord(BOOTSTRAP, "", "bootstrap"))
    asset = ASSETS.get(name_or_path)
    if asset is not None and asset.fetchable and asset.sha256 and not asset.path(weights).is_file():
        return BaseEncoder(BaseRecord(asset.name, asset.sha256, "public"))
    found = find(name_or_path, weights)
    return BaseEncoder(BaseRecord(found.name, found.digest, found.origin), found.path)


def network_on_base(
    spec: ModelSpec, base: Path | None, seed: int, *, copy_outputs: bool = False
) -> SegmentationNetwork:
    """Build a network whose random parts depend on ``seed`` alone, with the base read from a file (None: random).

    ``copy_outputs``: see ``load_base``.
    """
    seed_everything(seed, "network")
    network = build_network(spec)
    if base is not None:
        report = load_base(network, read_weights(base), copy_outputs=copy_outputs)
        logger.info("base %s: %s tensors", base.name, report)
    return network
