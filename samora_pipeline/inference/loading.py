"""From finished folds to networks: the config says what to build, the base is known by its digest."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.contracts.run import BASE_FILE, CONFIG_FILE, FINAL_CHECKPOINT, BaseRecord, RunConfig
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.errors import AssetError, DataError
from samora_pipeline.files import digest_file
from samora_pipeline.models.assembly import build_network, load_trained, require_shapes
from samora_pipeline.models.samora import Network, SegmentationNetwork
from samora_pipeline.weights.catalog import resolve
from samora_pipeline.weights.files import read_weights
from samora_pipeline.weights.sam_checkpoint import load_base

_BASE_STEM = BASE_FILE.partition(".")[0]


@dataclass(frozen=True)
class LoadedFold:
    """One fold's config and its network, on the CPU."""

    config: RunConfig
    network: Network


def load_folds(folders: Sequence[Path], weights_folder: Path, *, allow_code: bool = False) -> list[LoadedFold]:
    """Build the networks of fold folders of one run.

    Raises:
        DataError: a file is missing or damaged, ``E-CODE-01`` a config names code and ``allow_code`` is off,
            ``E-RUN-03`` folds that do not belong together, ``E-RUN-04``, ``E-RUN-06`` a checkpoint that does not belong
            to its config, ``E-MODEL-03`` one of another network, ``E-WEIGHT-09`` a base encoder with another digest.
        AssetError: ``E-WEIGHT-05`` the base encoder is not there.
    """
    configs = [read_run_config(folder / CONFIG_FILE, allow_code=allow_code) for folder in folders]
    for folder, config in zip(folders, configs, strict=True):
        for part in ("dataset", "model", "plans", "labels"):
            if getattr(config, part) != getattr(configs[0], part):
                raise DataError("E-RUN-03", folder=folder, part=part, found=str(folder))
    bases: dict[str, dict[str, Tensor]] = {}
    folds = []
    for folder, config in zip(folders, configs, strict=True):
        checkpoint = load_checkpoint(folder / FINAL_CHECKPOINT)
        digest = checkpoint.record.get("base_digest")
        if digest != config.base_digest:
            found = f"checkpoint: {digest}; config: {config.base_digest} ({folder})"
            raise DataError("E-RUN-04", folder=folder, found=found)
        known = checkpoint.record.get("config_digest")
        # Checkpoints of earlier versions say nothing about it.
        if known is not None and known != config.deciding_digest:
            place = folder / CONFIG_FILE
            raise DataError("E-RUN-06", path=place, found=f"another network, base, plan or labels in {place}")
        if isinstance(config.model, ModuleSpec):
            # Its options can make it of any size: without memory at first, to see whether the weights are as large.
            with torch.device("meta"):
                require_shapes(build_network(config.model), checkpoint.tensors)
        network = build_network(config.model)
        if config.base is not None and isinstance(network, SegmentationNetwork):
            if config.base.digest not in bases:
                bases[config.base.digest] = read_weights(find_base(config.base, folder, weights_folder))
            load_base(network, bases[config.base.digest])
        load_trained(network, checkpoint.tensors)
        folds.append(LoadedFold(config, network))
    return folds


def find_base(record: BaseRecord, fold_folder: Path, weights_folder: Path) -> Path:
    """Return the file of the base encoder, known by its digest: beside the run, in the package, among the weights.

    Raises:
        DataError: ``E-WEIGHT-09`` when only files with another digest are there.
        AssetError: ``E-WEIGHT-05`` when there is no file at all.
    """
    others = []
    # An exported public base keeps the ending of its format.
    likely = [path for folder in (fold_folder, fold_folder.parent) for path in sorted(folder.glob(f"{_BASE_STEM}.*"))]
    with suppress(AssetError):
        likely.append(resolve(record.name, weights_folder))
    for path in filter(Path.is_file, likely):
        digest = digest_file(path)
        if digest == record.digest:
            return path
        others.append(f"{path} with {digest[:12]}")
    for path in sorted(weights_folder.iterdir()) if weights_folder.is_dir() else []:
        if path.is_file() and path not in likely and digest_file(path) == record.digest:
            return path
    if not others:
        raise AssetError(
            "E-WEIGHT-05",
            what=f"the base encoder {record.name} that this run was trained on is not there",
            found=f"no such file in {fold_folder.parent} or {weights_folder}",
            expected=f"{record.origin} weights with sha256 {record.digest}",
            fix=f"put the file into {weights_folder}",
        )
    raise DataError("E-WEIGHT-09", record=record, found="; ".join(others))
