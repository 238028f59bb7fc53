"""One expert: SAM with a single LoRA, trained without labels, by the objective of its level or from a teacher."""

from abc import ABC
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.contracts.run import RunConfig
from samora_pipeline.contracts.splits import ALL
from samora_pipeline.errors import DataError, UsageError
from samora_pipeline.models.assembly import expert_state, load_expert
from samora_pipeline.models.freezing import Part
from samora_pipeline.models.samora import SegmentationNetwork
from trainers.loop.pretraining import Objective
from trainers.settings import (
    BOOTSTRAP,
    LEVEL_OF,
    TEACHER_OF,
    ContrastiveSettings,
    DenoisingSettings,
    DistillationSettings,
    MaskedSettings,
    PretrainingSettings,
)
from trainers.stages.distillation import DistillationObjective
from trainers.stages.encoder import network_on_base
from trainers.stages.objectives import ImageObjective, PatchObjective, PixelObjective
from trainers.stages.stage import RunContext, Trainable, missing
from trainers.stages.teachers import TeacherStage
from trainers.stages.unlabelled import UnlabelledStage, bare_spec, sam_spec

P = TypeVar("P", bound=PretrainingSettings)


class ExpertStage(UnlabelledStage[P], ABC):
    """The LoRA of one level on every block of the frozen base."""

    file = "expert.safetensors"

    @property
    def level(self) -> Level:
        """The level of the expert."""
        return LEVEL_OF[self.name]

    def inputs(self, run: RunConfig) -> Mapping[str, Any]:
        """See ``Stage.inputs``. The recipe's name is not among them: recipes that train an expert alike share it."""
        model, bootstrap = sam_spec(run), run.stage(BOOTSTRAP)
        return {
            **self.common(run),
            "backbone": model.backbone,
            "base": f"{BOOTSTRAP}/{bootstrap.digest}" if bootstrap else run.base_digest,
            "lora_rank": model.lora_rank,
        }

    def build(self, run: RunConfig, context: RunContext) -> Trainable:
        """See ``Stage.build``."""
        network = network_on_base(expert_spec(run, self.level), context.base_file, self.seed(run))
        learns = frozenset({Part.EXPERTS})
        return self.trainable(network, run, context, learns=learns, level=self.level)

    def save(self, trained: Trainable, run: RunConfig, file: Path) -> None:
        """See ``Stage.save``."""
        save_checkpoint(file, expert_state(trained.network, self.level), expert_record(run, self.level, self.digest))


class ContrastiveExpert(ExpertStage[ContrastiveSettings]):
    """Image level: two views of a slice are alike, views of other slices are not."""

    Settings = ContrastiveSettings
    task = ImageObjective


class MaskedExpert(ExpertStage[MaskedSettings]):
    """Patch level: hidden patches are reconstructed."""

    Settings = MaskedSettings
    task = PatchObjective


class DenoisingExpert(ExpertStage[DenoisingSettings]):
    """Pixel level: noise is removed."""

    Settings = DenoisingSettings
    task = PixelObjective


class DistilledExpert(ExpertStage[DistillationSettings]):
    """Image or patch level from a teacher."""

    Settings = DistillationSettings

    def inputs(self, run: RunConfig) -> Mapping[str, Any]:
        """See ``ExpertStage.inputs``; the teacher, trained or as it is, is among them.

        Raises:
            UsageError: ``E-TEACH-06`` the trainer names no teacher of the expert's level.
        """
        teacher = run.teachers.get(self.level.value)
        if teacher is None:
            raise UsageError("E-TEACH-06", name=self.name, found=f"no teacher of the {self.level.value} level")
        record = run.stage(TEACHER_OF[self.name])
        trained = record.digest if record is not None else ""
        start = {"network": teacher.network, "weights": teacher.identity}
        size = record.settings["input_size"] if record is not None else None
        return {**super().inputs(run), "teacher": trained or {**start, "input_size": size}}

    def objective(self, network: Any, run: RunConfig, context: RunContext) -> Objective[Any, Any]:
        """See ``UnlabelledStage.objective``.

        Raises:
            AssetError: ``E-RUN-23`` the teacher's stage has not run.
        """
        stage = context.stages[TEACHER_OF[self.name]]
        is_ready = isinstance(stage, TeacherStage) and (
            context.draft or not stage.trains() or stage.result(context).is_file()
        )
        if not isinstance(stage, TeacherStage) or not is_ready:
            raise missing(TEACHER_OF[self.name])
        teacher, level = stage.ready(run, context), self.level.value
        # A draft does not fit the scale of the channels, for which the teacher has to see part of the pool.
        settings = replace(self.settings, scale="none") if context.draft else self.settings
        objective = DistillationObjective(
            context.source, run.plans, settings, network, self.seed(run), teacher=teacher, level=level
        )
        with context.arithmetic.autocast(context.device):
            objective.prepare(context.device)
        return objective


def expert_spec(run: RunConfig, level: Level) -> ModelSpec:
    """The network that an expert is trained in: one level, no fusion.

    The decoder is built because a network has one; nothing runs it here, so its number of outputs is of no matter.
    """
    return bare_spec(run, 1, level)


def read_expert(
    network: SegmentationNetwork, level: Level, file: Path, base_digest: str, hidden: Collection[str] = ()
) -> None:
    """Read a trained expert into a network. ``hidden`` are cases that it must not have seen.

    Raises:
        DataError: ``E-EXP-20`` when it was trained on another base or input size, or does not fit the network;
            ``E-EXP-21`` when it has seen what is scored.
    """
    checkpoint = load_checkpoint(file)
    record = checkpoint.record
    again = f"delete {file.parent} and repeat the command; the expert is then trained again"
    for what, name, own in (
        ("on another base", "base_digest", base_digest),
        ("at another input size", "input_size", network.input_size),
    ):
        if record.get(name) != own:
            raise DataError(
                "E-EXP-20",
                what=f"the {level.value} expert was trained {what}",
                found=f"{file}: {str(record.get(name))[:12]}",
                expected=str(own)[:12],
                fix=again,
            )
    seen = sorted(set(hidden) & set(record.get("seen", ())))
    if seen:
        shown = f"{', '.join(seen[:5])}{(' and more' if len(seen) > 5 else '')} in {file}"
        raise DataError("E-EXP-21", level=level, again=again, found=shown)
    load_expert(network, level, checkpoint.tensors)


def rehearse(run: RunConfig, level: Level) -> None:
    """Build the network of stage 2 and read untrained experts into it, before hours are spent on training them.

    Raises:
        DataError, UsageError: whatever fine-tuning would raise.
    """
    untrained = expert_state(network_on_base(expert_spec(run, level), None, 0), level)
    network = network_on_base(sam_spec(run), None, 0)
    digest = run.base_digest
    with TemporaryDirectory() as folder:
        file = Path(folder) / "expert.safetensors"
        for other in sam_spec(run).levels:
            save_checkpoint(file, untrained, expert_record(run, level, ""))
            read_expert(network, other, file, digest, hidden_cases(run))


def hidden_cases(run: RunConfig) -> frozenset[str]:
    """The cases that no expert of the run may have seen; the fold ``all`` is scored on what it is trained on."""
    if run.pool.transductive:
        return frozenset()
    scored = () if run.fold == ALL else run.scored
    return frozenset((*scored, *run.pool.excluded)) - set(run.allowed_leaks)


def expert_record(run: RunConfig, level: Level, digest: str) -> dict[str, Any]:
    """What is kept with an expert; cases of other datasets than the run's own carry their dataset's name."""
    cases = run.pool.cases.items()
    seen = [case if name == run.dataset else f"{name}/{case}" for name, names in cases for case in names]
    model, teacher = sam_spec(run), run.teachers.get(level.value)
    return {
        "level": level.value,
        "backbone": model.backbone,
        "base_digest": run.base_digest,
        "lora_rank": model.lora_rank,
        "input_size": model.input_size,
        "teacher": to_plain(teacher) if teacher else None,
        "seen": sorted(seen),
        "digest": digest,
    }
