"""The teachers of a run: which network, what it starts from, and whether it is trained on the pool first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from samora_pipeline.contracts.level import Level
from samora_pipeline.contracts.run import RANDOM_TEACHER_STAMP, UNTRAINED_TEACHER_STAMP, TeacherRecord
from samora_pipeline.errors import UsageError
from samora_pipeline.models.teachers.catalog import TEACHERS
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.obtain import find
from trainers.artefacts import Artefact, teacher_artefact
from trainers.config import Settings
from trainers.pretraining_config import RANDOM_WEIGHTS, ImageTeacherSettings, PatchTeacherSettings
from trainers.recipes import TAUGHT_LEVELS, Recipe

TeacherSettings = ImageTeacherSettings | PatchTeacherSettings


@dataclass(frozen=True)
class PlannedTeacher:
    """``artefact`` is its training on the pool; None where it is taken as it is.

    ``identity`` stands for it in the keys of experts. ``file`` is what it starts from: None for random weights, and
    for a public file that is still to be fetched.
    """

    level: Level
    settings: TeacherSettings
    record: TeacherRecord
    identity: str
    file: Path | None
    artefact: Artefact | None

    @property
    def stamp(self) -> str | None:
        """What every report has to say about it."""
        if self.record.origin != RANDOM_WEIGHTS:
            return None
        return RANDOM_TEACHER_STAMP if self.artefact else UNTRAINED_TEACHER_STAMP

    @property
    def text(self) -> str:
        """It in words."""
        record = self.record
        if record.origin == RANDOM_WEIGHTS:
            start = "random weights, because it has no public file"
        else:
            start = f"{record.weights} ({record.licence or 'own file'})"
        after = "trained on the pool first" if self.artefact else "taken as it is"
        return f"{record.network} from {start}; {after}"

    def starting_file(self, weights: Path) -> Path | None:
        """The file it starts from, fetched if need be; None for random weights.

        Raises:
            AssetError: ``E-WEIGHT-05`` it cannot be fetched, with the ways on. DataError: ``E-WEIGHT-06``.
        """
        if self.record.origin == RANDOM_WEIGHTS:
            return None
        return self.file or find(self.record.weights, weights, fetch=True).path


def plan_teachers(
    recipe: Recipe,
    levels: tuple[Level, ...],
    common: Mapping[str, Any],
    settings: Settings,
    weights: Path,
    pretraining: Path,
) -> dict[Level, PlannedTeacher]:
    """Find what the teachers of a recipe start from; nothing is fetched.

    Raises:
        UsageError: ``E-NAME-01`` an unknown network, ``E-TEACH-01`` an input size that does not fit it,
            ``E-TEACH-02`` a network of another level, ``E-TEACH-03`` a feature that it does not have.
        AssetError: ``E-WEIGHT-05`` weights that are missing and must not be fetched unasked, ``E-WEIGHT-11``.
    """
    taught = [level for level in levels if recipe.taught and level in TAUGHT_LEVELS]
    return {level: _plan(level, recipe, common, settings, weights, pretraining) for level in taught}


def _plan(
    level: Level, recipe: Recipe, common: Mapping[str, Any], settings: Settings, weights: Path, pretraining: Path
) -> PlannedTeacher:
    stage = f"teacher_{level.value}"
    own: TeacherSettings = getattr(settings, stage)
    _check_network(level, own, getattr(settings, f"expert_{level.value}").feature, common["input_size"])
    record, identity, file = _start(own, weights)
    if not recipe.continued:
        # A random network is determined by the seed of the run, which is among what all keys depend on.
        whole = f"{own.network} at {own.input_size}: {identity}"
        return PlannedTeacher(level, own, record, whole, file, None)
    artefact = teacher_artefact(level, common, identity, settings, pretraining)
    return PlannedTeacher(level, own, replace(record, key=artefact.key), f"{stage}/{artefact.key}", file, artefact)


def _check_network(level: Level, settings: TeacherSettings, feature: str | None, input_size: int) -> None:
    import torch

    design = TEACHERS.get(settings.network)
    if design.level is not level:
        raise UsageError(
            "E-TEACH-02",
            f"{settings.network} is no teacher of the {level.value} level",
            found=f"a teacher of the {design.level.value} level",
            expected=", ".join(name for name in TEACHERS.names() if TEACHERS.get(name).level is level),
        )
    with torch.device("meta"):
        shapes = design.build(settings.input_size or input_size).shapes
    if feature is not None and feature not in shapes:
        raise UsageError(
            "E-TEACH-03",
            f'{settings.network} has no feature "{feature}"',
            found=feature,
            expected=", ".join(shapes),
            fix=f"--set expert_{level.value}.feature={next(iter(shapes))}",
        )


def _start(settings: TeacherSettings, weights: Path) -> tuple[TeacherRecord, str, Path | None]:
    """What a teacher starts from: its record, what identifies it, and its file where that is there."""
    name = settings.weights
    if name == RANDOM_WEIGHTS:
        return TeacherRecord(settings.network, name, "random"), name, None
    asset = ASSETS.get(name)
    if asset is not None and asset.fetchable and not asset.path(weights).is_file():
        return TeacherRecord(settings.network, name, "public", asset.licence), _name_or_digest(name, ""), None
    found = find(name, weights)
    record = TeacherRecord(settings.network, found.name, found.origin, found.licence)
    return record, _name_or_digest(name, found.digest), found.path


def _name_or_digest(name: str, digest: str) -> str:
    """What stands for weights in keys: the published digest, else the catalogue's name, else the file's own digest.

    The digest of a public file that nobody published is not known before it was fetched, and a key must not change
    with that.
    """
    asset = ASSETS.get(name)
    return (asset.sha256 or f"catalogue/{name}") if asset is not None else digest
