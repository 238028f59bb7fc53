"""Continual pre-training of a teacher on the pool: SimCLRv2 by contrast (image level), MAE by masking (patch)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.run import LATEST_CHECKPOINT
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.models.teachers.catalog import TEACHERS
from samora_pipeline.models.teachers.mae import MaeTeacher
from samora_pipeline.models.teachers.simclr import SimclrTeacher
from samora_pipeline.models.teachers.teacher import Teacher
from samora_pipeline.reproducibility import seed_everything
from samora_pipeline.run_log import Line, logger
from samora_pipeline.slices.datasets import UnlabelledSource
from samora_pipeline.slices.views import visible_count
from samora_pipeline.weights.teacher_checkpoint import load_teacher
from trainers.loop import train
from trainers.monitors import Monitor, Watched
from trainers.pretraining_config import ImageTeacherSettings, PatchTeacherSettings
from trainers.stages.image import ContrastiveObjective
from trainers.stages.masked import MaskedObjective, Prediction
from trainers.stages.pretraining import Objective, pretraining
from trainers.stages.stage import StageContext
from trainers.teachers import PlannedTeacher


class ContrastiveTeacher(ContrastiveObjective[SimclrTeacher]):
    """SimCLRv2's own training: encoder and projection head, batch norm over both views of all ranks."""

    def __init__(self, source: UnlabelledSource, plans: Plans, settings: ImageTeacherSettings, seed: int) -> None:
        super().__init__(source, plans, settings.temperature, seed)
        self.head = nn.Identity()

    def embed(self, network: SimclrTeacher, images: Tensor) -> tuple[Tensor, Tensor]:
        """See ``ContrastiveObjective.embed``."""
        pooled = network.features(images, "pooled")
        return pooled, network.head(pooled)


class MaskedTeacher(MaskedObjective[MaeTeacher]):
    """MAE's own training: the encoder sees the visible patches alone, its decoder predicts the hidden ones."""

    def __init__(
        self, source: UnlabelledSource, plans: Plans, settings: PatchTeacherSettings, teacher: MaeTeacher, seed: int
    ) -> None:
        super().__init__(
            source,
            plans,
            teacher.grid,
            settings.masked_share,
            seed,
            normalised=settings.normalised,
            skip_flat=settings.skip_flat,
        )
        self.head = nn.Identity()
        self._teacher, self._visible = teacher, visible_count(teacher.grid, settings.masked_share)

    def predict(self, network: MaeTeacher, images: Tensor, mask: Tensor) -> Prediction:
        """See ``MaskedObjective.predict``; patches and images are normalised with ImageNet's statistics."""
        prepared = network.prepare(images)
        latent = network.encode(prepared, mask, self._visible)
        return Prediction(network.decode(latent, mask), prepared, latent[:, 1:].mean(dim=1))

    def _shown(self, images: Tensor) -> Tensor:
        return self._teacher.intensities(images)


@dataclass(frozen=True)
class TeacherInputs:
    """What a teacher is trained from. ``file``: its weights, None for random ones."""

    teacher: PlannedTeacher
    file: Path | None
    plans: Plans
    stamps: tuple[str, ...] = ()


def build_teacher(inputs: TeacherInputs, seed: int) -> Teacher:
    """A teacher as it is before its training on the pool.

    Raises:
        AssetError, DataError: ``E-WEIGHT-..`` its file is missing, damaged or another network's.
    """
    settings = inputs.teacher.settings
    seed_everything(seed, "teacher")
    teacher = TEACHERS.get(settings.network).build(settings.input_size or inputs.plans.input_size.value)
    if inputs.file is None:
        logger.warning("teacher %s: no weights, it starts at random", settings.network)
    else:
        logger.info("teacher %s: %s", settings.network, load_teacher(teacher, inputs.file))
    return teacher


def run_teacher(
    inputs: TeacherInputs, source: UnlabelledSource, context: StageContext, file: Path, digest: str
) -> list[Line]:
    """Train the teacher and write it to ``file``; return the history."""
    settings = inputs.teacher.settings
    stage = f"teacher_{inputs.teacher.level.value}"
    seed = context.stage_seed(stage)
    teacher = build_teacher(inputs, context.seed).to(context.device).train()
    objective = _objective(inputs, source, teacher, seed)
    parameters = dict(teacher.named_parameters())
    monitor = Monitor(
        Watched(
            stage,
            teacher,
            objective,
            source,
            settings,
            context.device,
            taught_by=inputs.teacher.text,
            stamps=inputs.stamps,
        )
    )
    training = pretraining(
        stage,
        teacher,
        objective,
        settings,
        len(source),
        seed,
        experts={},
        buffers={name: value for name, value in teacher.state_dict(keep_vars=True).items() if name not in parameters},
        monitor=monitor.epoch,
        names=source.keys,
    )
    history = train(training, context.circumstances(stage, file.parent, digest))
    if distributed.is_main():
        monitor.finish(history, file.parent)
        record = {"teacher": asdict(inputs.teacher.record), "input_size": teacher.input_size, "digest": digest}
        save_checkpoint(file, teacher.state_dict(), record)
        (file.parent / LATEST_CHECKPOINT).unlink(missing_ok=True)
    distributed.barrier()
    return history


def ready_teacher(inputs: TeacherInputs, seed: int) -> Teacher:
    """The teacher that is distilled, frozen: trained on the pool where the recipe says so, else as it started.

    Raises:
        DataError: ``E-TEACH-04`` the trained one was made by another training; ``E-CKPT-..``, ``E-WEIGHT-..``.
    """
    artefact = inputs.teacher.artefact
    if artefact is None:
        teacher = build_teacher(inputs, seed)
    else:
        settings = inputs.teacher.settings
        checkpoint = load_checkpoint(artefact.file)
        if checkpoint.record.get("digest") != artefact.digest:
            raise DataError(
                "E-TEACH-04",
                f"the teacher of the {inputs.teacher.level.value} level was made by another training",
                found=f"{artefact.file}: {str(checkpoint.record.get('digest'))[:12]}",
                expected=artefact.digest[:12],
                fix=f"delete {artefact.file.parent} and repeat the command; the teacher is then trained again",
            )
        teacher = TEACHERS.get(settings.network).build(settings.input_size or inputs.plans.input_size.value)
        teacher.load_state_dict(checkpoint.tensors)
    teacher.freeze()
    return teacher


def _objective(inputs: TeacherInputs, source: UnlabelledSource, teacher: Teacher, seed: int) -> Objective[Any]:
    settings = inputs.teacher.settings
    if isinstance(teacher, SimclrTeacher) and isinstance(settings, ImageTeacherSettings):
        teacher.encoder.checkpointing = settings.checkpointing
        return ContrastiveTeacher(source, inputs.plans, settings, seed)
    if isinstance(teacher, MaeTeacher) and isinstance(settings, PatchTeacherSettings):
        return MaskedTeacher(source, inputs.plans, settings, teacher, seed)
    raise UsageError(
        "E-TEACH-05",
        f"{settings.network} cannot be trained on the pool: its family has no training of its own here",
        found=type(teacher).__name__,
        expected="a SimCLRv2 or a MAE",
        fix="--recipe nocpt  takes the teacher as it is",
    )
