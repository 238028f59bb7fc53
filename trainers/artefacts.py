"""The results of stage 1, each in a folder named by a key of what determines it, and reused wherever the key is equal.

``results/DATASET/pretraining/KEY/{bootstrap,teacher_image,teacher_patch,expert_image,expert_patch,expert_pixel}/``
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.level import Level
from samora_pipeline.contracts.run import BASE_FILE
from samora_pipeline.files import digest_json, write_text
from samora_pipeline.reproducibility import snapshot
from trainers.config import Settings
from trainers.request import BOOTSTRAP
from trainers.timing import StageTiming

EXPERT_FILE = "expert.safetensors"
TEACHER_FILE = "teacher.safetensors"
INPUTS_FILE = "inputs.json"
RECORD_FILE = "record.json"
PRETRAINING_FOLDER = "pretraining"
TARGETS_FOLDER = "targets"

_VERSION = 2
"""raised when the meaning of the inputs or the training itself changes, so that older artefacts are not reused"""
_KEY_LENGTH = 12


@dataclass(frozen=True)
class ArtefactRecord:
    """record.json beside a result; nothing in it takes part in the key."""

    made_for: str
    timing: StageTiming
    versions: dict[str, str]
    schema_version: int = 1


@dataclass(frozen=True)
class Artefact:
    """One result of stage 1: its stage, its key, the inputs behind the key, and its file."""

    stage: str
    key: str
    digest: str
    inputs: Mapping[str, Any]
    file: Path

    @property
    def done(self) -> bool:
        """Whether it is there; its file is written last."""
        return self.file.is_file()

    def write_inputs(self) -> None:
        """Keep what the key stands for beside the result, for people who wonder why two keys differ."""
        write_text(self.file.parent / INPUTS_FILE, json.dumps(self.inputs, indent=2, sort_keys=True) + "\n")

    def write_record(self, made_for: str, timing: StageTiming) -> None:
        """Keep for which run it was made, how long that took and with which software."""
        write_json(ArtefactRecord(made_for, timing, snapshot()), self.file.parent / RECORD_FILE)

    def timing(self, run: str) -> StageTiming | None:
        """How long it took; marked as reused when it was made for another run. None where no record was written."""
        path = self.file.parent / RECORD_FILE
        if not path.is_file():
            return None
        record = read_json(ArtefactRecord, path)
        return replace(record.timing, reused=record.made_for != run)


def bootstrap_artefact(common: Mapping[str, Any], settings: Settings, folder: Path) -> Artefact:
    """The base encoder of ``--backbone-weights bootstrap``; it depends on no other artefact."""
    inputs = {**common, "stage": BOOTSTRAP, "settings": to_plain(settings.bootstrap)}
    return _artefact(BOOTSTRAP, inputs, folder, BASE_FILE)


def teacher_artefact(
    level: Level, common: Mapping[str, Any], weights: str, settings: Settings, folder: Path
) -> Artefact:
    """The teacher of a level after its training on the pool. ``weights`` identifies what it starts from.

    It does not depend on the backbone, so runs on different backbones share it.
    """
    stage = f"teacher_{level.value}"
    shared = {name: value for name, value in common.items() if name != "backbone"}
    inputs = {**shared, "stage": stage, "weights": weights, "settings": to_plain(getattr(settings, stage))}
    return _artefact(stage, inputs, folder, TEACHER_FILE)


def expert_artefact(
    level: Level, common: Mapping[str, Any], base: str, teacher: str, settings: Settings, folder: Path
) -> Artefact:
    """The expert of a level.

    ``base`` identifies the frozen encoder: its digest, or the key of its bootstrap. ``teacher`` identifies what it
    learns from, empty where it learns by its own objective. The recipe's name is no part of the key: recipes that
    train an expert alike share it.
    """
    stage = f"expert_{level.value}"
    inputs = {
        **common,
        "stage": stage,
        "base": base,
        "teacher": teacher,
        "lora_rank": settings.model.lora_rank,
        "settings": to_plain(getattr(settings, stage)),
    }
    return _artefact(stage, inputs, folder, EXPERT_FILE)


def _artefact(stage: str, inputs: Mapping[str, Any], folder: Path, file: str) -> Artefact:
    complete = {"version": _VERSION, **inputs}
    digest = digest_json(complete)
    key = digest[:_KEY_LENGTH]
    return Artefact(stage, key, digest, complete, folder / key / stage / file)
