"""The teachers: SimCLRv2 by contrast (image level), MAE by masking (patch level), trained or taken as they are."""

from abc import ABC
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.contracts.run import RunConfig, TeacherRecord
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.models.catalog import TEACHERS
from samora_pipeline.models.teachers.mae import MaeTeacher
from samora_pipeline.models.teachers.simclr import SimclrTeacher
from samora_pipeline.models.teachers.teacher import Teacher
from samora_pipeline.reproducibility import seed_everything
from samora_pipeline.run_log import logger
from samora_pipeline.slices.views import visible_count
from samora_pipeline.weights.catalog import ASSETS
from samora_pipeline.weights.obtain import find
from samora_pipeline.weights.teacher_checkpoint import load_teacher
from trainers.settings import LEVEL_OF, RANDOM_WEIGHTS, ImageTeacherSettings, PatchTeacherSettings, TeacherSettings
from trainers.stages.objectives import ContrastiveObjective, MaskedObjective, Prediction
from trainers.stages.stage import RunContext, Trainable
from trainers.stages.unlabelled import UnlabelledStage

T = TypeVar("T", bound=TeacherSettings)


class ContrastiveTeacher(ContrastiveObjective[SimclrTeacher]):
    """SimCLRv2's own training: encoder and projection head, batch norm over both views of all ranks."""

    def make_head(self, network: SimclrTeacher, channels: int) -> nn.Module:
        """None beside the teacher's own."""
        if isinstance(self._settings, ImageTeacherSettings):
            network.encoder.checkpointing = self._settings.checkpointing
        return nn.Identity()

    def embed(self, network: SimclrTeacher, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ContrastiveObjective.embed``."""
        pooled = network.features(images, "pooled")
        return pooled, network.head(pooled)


class MaskedTeacher(MaskedObjective[MaeTeacher]):
    """MAE's own training: the encoder sees the visible patches alone, its decoder predicts the hidden ones."""

    def make_head(self, network: MaeTeacher, channels: int) -> nn.Module:
        """None beside the teacher's own decoder."""
        self._grid, self._intensities = network.grid, network.intensities
        self._visible = visible_count(network.grid, self._settings.masked_share)
        return nn.Identity()

    def predict(self, network: MaeTeacher, images: Tensor, mask: Tensor) -> Prediction:
        """See ``MaskedObjective.predict``; patches and images are normalised with ImageNet's statistics."""
        prepared = network.prepare(images)
        latent = network.encode(prepared, mask, self._visible)
        return Prediction(network.decode(latent, mask), prepared, latent[:, 1:].mean(dim=1))

    def _shown(self, images: Tensor) -> Tensor:
        return self._intensities(images)


class TeacherStage(UnlabelledStage[T], ABC):
    """A teacher of one level. It does not depend on the backbone, so runs on different backbones share it.

    ``family`` are the networks that its ``task`` can train.
    """

    file = "teacher.safetensors"
    family: ClassVar[type[Teacher]]

    def trains(self) -> bool:
        """Not without CPT."""
        return self.settings.continued

    def inputs(self, run: RunConfig) -> Mapping[str, Any]:
        """See ``Stage.inputs``."""
        return {**self.common(run), "weights": teacher_record(self.name, run).identity}

    def build(self, run: RunConfig, context: RunContext) -> Trainable:
        """See ``Stage.build``; ``E-TEACH-05`` a network of another family."""
        teacher = self.start(run, context).to(context.device).train()
        if not isinstance(teacher, self.family):
            raise UsageError("E-TEACH-05", settings=self.settings, found=type(teacher).__name__)
        return self.trainable(teacher, run, context, learns=None)

    def save(self, trained: Trainable, run: RunConfig, file: Path) -> None:
        """See ``Stage.save``."""
        record = {
            "teacher": to_plain(teacher_record(self.name, run)),
            "input_size": trained.network.input_size,
            "digest": self.digest,
        }
        save_checkpoint(file, trained.network.state_dict(), record)

    def start(self, run: RunConfig, context: RunContext) -> Teacher:
        """The teacher as it is before its training on the pool, its file fetched if need be.

        Raises:
            AssetError, DataError: ``E-WEIGHT-..`` its file is missing, damaged or another network's.
        """
        seed_everything(run.seed, "teacher")
        teacher = self._empty(run)
        if context.draft:
            return teacher
        if self.settings.weights == RANDOM_WEIGHTS:
            logger.warning("teacher %s: no weights, it starts at random", self.settings.network)
        else:
            file = find(self.settings.weights, context.weights, fetch=True).path
            logger.info("teacher %s: %s", self.settings.network, load_teacher(teacher, file))
        return teacher

    def ready(self, run: RunConfig, context: RunContext) -> Teacher:
        """The teacher that is distilled, frozen: trained on the pool where the recipe says so, else as it started.

        Raises:
            DataError: ``E-TEACH-04`` the trained one was made by another training; ``E-CKPT-..``, ``E-WEIGHT-..``.
        """
        if not self.trains() or context.draft:
            teacher = self.start(run, context)
        else:
            file = self.result(context)
            checkpoint = load_checkpoint(file)
            if checkpoint.record.get("digest") != self.digest:
                raise DataError(
                    "E-TEACH-04",
                    name=LEVEL_OF[self.name],
                    file=file,
                    found=f"{file}: {str(checkpoint.record.get('digest'))[:12]}",
                    expected=self.digest[:12],
                )
            teacher = self._empty(run)
            teacher.load_state_dict(checkpoint.tensors)
        teacher.freeze()
        return teacher

    def _empty(self, run: RunConfig) -> Teacher:
        return TEACHERS.get(self.settings.network).build(self.settings.input_size or run.model.input_size)


class ImageTeacher(TeacherStage[ImageTeacherSettings]):
    """SimCLRv2."""

    Settings = ImageTeacherSettings
    task = ContrastiveTeacher
    family = SimclrTeacher


class PatchTeacher(TeacherStage[PatchTeacherSettings]):
    """MAE."""

    Settings = PatchTeacherSettings
    task = MaskedTeacher
    family = MaeTeacher


def teacher_record(stage: str, run: RunConfig) -> TeacherRecord:
    """What the run says about the teacher of a stage."""
    return run.teachers[LEVEL_OF[stage].value]


def plan_teacher(
    stage: str, settings: TeacherSettings, feature: str | None, input_size: int, weights: Path, *, absent: bool = False
) -> TeacherRecord:
    """Find what the teacher of a stage starts from; nothing is fetched.

    Args:
        stage: the name of the teacher's stage.
        settings: its settings.
        feature: what its expert learns, None for the default.
        input_size: of the run, in pixels.
        weights: the folder of public files.
        absent: whether a file that must not be fetched unasked may be missing, in a run that is only described.

    Raises:
        UsageError: ``E-NAME-01`` an unknown network, ``E-TEACH-01`` an input size that does not fit it,
            ``E-TEACH-02`` a network of another level, ``E-TEACH-03`` a feature that it does not have.
        AssetError: ``E-WEIGHT-05`` weights that are missing and must not be fetched unasked, ``E-WEIGHT-11``.
    """
    _check_network(LEVEL_OF[stage], settings, feature, input_size)
    name = settings.weights
    if name == RANDOM_WEIGHTS:
        return TeacherRecord(settings.network, name, "random", "", name, settings.continued)
    asset = ASSETS.get(name)
    if asset is not None and (asset.fetchable or absent) and not asset.path(weights).is_file():
        return TeacherRecord(settings.network, name, "public", asset.licence, _identity(name, ""), settings.continued)
    found = find(name, weights)
    identity = _identity(name, found.digest)
    return TeacherRecord(settings.network, found.name, found.origin, found.licence, identity, settings.continued)


def _check_network(level: Level, settings: TeacherSettings, feature: str | None, input_size: int) -> None:
    design = TEACHERS.get(settings.network)
    if design.level is not level:
        raise UsageError(
            "E-TEACH-02",
            settings=settings,
            level=level,
            found=f"a teacher of the {design.level.value} level",
            expected=", ".join(name for name in TEACHERS.names() if TEACHERS.get(name).level is level),
        )
    with torch.device("meta"):
        shapes = design.build(settings.input_size or input_size).shapes
    if feature is not None and feature not in shapes:
        raise UsageError(
            "E-TEACH-03",
            settings=settings,
            feature=feature,
            level=level,
            shapes=next(iter(shapes)),
            found=feature,
            expected=", ".join(shapes),
        )


def _identity(name: str, digest: str) -> str:
    """What stands for weights in keys: the published digest, else the catalogue's name, else the file's own digest.

    The digest of a public file that nobody published is not known before it was fetched, and a key must not change
    with that.
    """
    asset = ASSETS.get(name)
    return (asset.sha256 or f"catalogue/{name}") if asset is not None else digest
