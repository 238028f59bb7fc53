"""What is kept of a finished run: the losses and tensors of its stages, its predictions, its settings by meaning."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from safetensors.numpy import load_file

from tests.golden.dataset import NAME
from tests.golden.meaning import keys_of, settings_of

FINAL = "finetune"
_CLOCK = ("seconds", "slices_per_second", "data_wait", "memory_gib", "monitor_seconds", "micro_batch", "recomputed")
_CLASSES = 3
_FINAL_FILE = "checkpoint_final.safetensors"
_BASE_STAGE = "bootstrap"


def record_run(root: Path, run_folder: Path, made: set[Path]) -> dict[str, Any]:
    """The record of one run. ``made`` are the stage folders of stage 1 that were not there before it."""
    (fold,) = run_folder.glob("fold_*")
    config = json.loads((fold / "config.json").read_text())
    folders = {**_shared_folders(root, config), FINAL: fold}
    return {
        "made": sorted(folder.name for folder in made),
        "losses": {stage: _losses(folder) for stage, folder in folders.items()},
        "tensors": {stage: _tensors(folder) for stage, folder in folders.items()},
        "predictions": _predictions(fold / "validation"),
        "settings": settings_of(config),
    }


def shared_stages(root: Path, run_folders: Mapping[str, Path]) -> dict[str, list[list[str]]]:
    """Per stage of stage 1, which runs have one result in common; each run is in one group."""
    groups: dict[str, dict[Path, list[str]]] = {}
    for name, run_folder in run_folders.items():
        (path,) = run_folder.glob("fold_*/config.json")
        for stage, folder in _shared_folders(root, json.loads(path.read_text())).items():
            groups.setdefault(stage, {}).setdefault(folder, []).append(name)
    return {stage: sorted(members.values()) for stage, members in groups.items()}


def stage_folders(root: Path) -> set[Path]:
    """The folders of finished results of stage 1."""
    return {path.parent for path in (root / "results" / NAME / "pretraining").glob("*/*/record.json")}


def _shared_folders(root: Path, config: dict[str, Any]) -> dict[str, Path]:
    keys = keys_of(config)
    if config["base"]["origin"] == _BASE_STAGE:
        keys.setdefault(_BASE_STAGE, "")
    found = {}
    for stage, key in keys.items():
        folders = [path for path in stage_folders(root) if path.name == stage and _same(path.parent.name, key)]
        if len(folders) != 1:
            raise ValueError(f"{stage}: {len(folders)} results of key {key!r}")
        found[stage] = folders[0]
    return found


def _same(folder: str, key: str) -> bool:
    """A folder is named by the beginning of a digest; a config.json may say all of it."""
    return not key or folder.startswith(key) or key.startswith(folder)


def _losses(folder: Path) -> dict[str, Any]:
    """The line of the first epoch, without what depends on the machine."""
    log = folder / "log.jsonl"
    if not log.is_file():
        return {}
    line = json.loads(log.read_text().splitlines()[0])
    return {name: value for name, value in line.items() if name not in _CLOCK}


def _tensors(folder: Path) -> dict[str, Any]:
    """A digest of all tensors in a stage's file, and their norm for other machines."""
    names = {path.name for path in folder.glob("*.safetensors")}
    (name,) = names & {_FINAL_FILE} or names
    tensors = load_file(folder / name)
    digest = hashlib.sha256()
    squares = 0.0
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}:{tensor.dtype}:{tensor.shape}".encode())
        digest.update(tensor.tobytes())
        squares += float((tensor.astype(np.float64) ** 2).sum())
    return {"count": len(tensors), "sha256": digest.hexdigest(), "norm": math.sqrt(squares)}


def _predictions(folder: Path) -> dict[str, list[int]]:
    """Voxels per label in each scored case."""
    return {
        path.name: np.bincount(
            np.asarray(nibabel.load(path).dataobj).ravel().astype(np.int64), minlength=_CLASSES
        ).tolist()
        for path in sorted(folder.glob("*.nii.gz"))
    }
