"""One expert: SAM with a single LoRA, trained without labels, by the objective of its level or from a teacher."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from samora_pipeline import distributed
from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.contracts.level import Level
from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.run import LATEST_CHECKPOINT, PoolRecord
from samora_pipeline.errors import DataError
from samora_pipeline.models.assembly import expert_state, load_expert
from samora_pipeline.models.backbones.catalog import BACKBONES
from samora_pipeline.models.freezing import Part, freeze, parameters_by_part, snapshot, verify
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.run_log import Line
from samora_pipeline.slices.datasets import UnlabelledSource
from trainers.config import Settings
from trainers.loop import train
from trainers.monitors import Monitor, Watched
from trainers.pretraining_config import DistillationSettings, ImageSettings, PatchSettings
from trainers.stages.distillation import DistillationObjective, Lesson
from trainers.stages.image import ImageObjective
from trainers.stages.patch import PatchObjective
from trainers.stages.pixel import PixelObjective
from trainers.stages.pretraining import Objective, pretraining
from trainers.stages.stage import StageContext, network_on_base
from trainers.stages.teachers import TeacherInputs, ready_teacher


@dataclass(frozen=True)
class ExpertInputs:
    """What an expert is trained from. ``base_digest`` and ``pool`` are kept with it, see ``read_expert``.

    ``dataset`` is the run's own, after which cases of others carry their dataset's name. ``teacher`` is None where
    the level learns by its own objective. ``targets`` is the folder for a teacher's features. ``stamps`` are those of
    the run.
    """

    level: Level
    backbone: str
    base: Path
    base_digest: str
    dataset: str
    pool: PoolRecord
    plans: Plans
    settings: Settings
    targets: Path
    teacher: TeacherInputs | None = None
    stamps: tuple[str, ...] = ()


def stage_name(level: Level) -> str:
    """The name of the stage that trains the expert of a level."""
    return f"expert_{level.value}"


def run_expert(
    inputs: ExpertInputs, source: UnlabelledSource, context: StageContext, file: Path, digest: str
) -> list[Line]:
    """Train the expert and write it to ``file`` with its record; return the history."""
    stage = stage_name(inputs.level)
    seed = context.stage_seed(stage)
    network = network_on_base(expert_spec(inputs), inputs.base, seed)
    freeze(network, frozenset({Part.EXPERTS}))
    objective = _objective(inputs, source, network, seed, context)
    network.to(context.device)
    objective.head.to(context.device)
    before = snapshot(network)
    monitor = Monitor(
        Watched(
            stage,
            network,
            objective,
            source,
            getattr(inputs.settings, stage),
            context.device,
            inputs.level,
            taught_by=inputs.teacher.teacher.text if inputs.teacher else "",
            stamps=inputs.stamps,
        )
    )
    training = pretraining(
        stage,
        network,
        objective,
        getattr(inputs.settings, stage),
        len(source),
        seed,
        experts=parameters_by_part(network)[Part.EXPERTS],
        after_first_step=lambda: verify(network, before),
        monitor=monitor.epoch,
        names=source.keys,
    )
    history = train(training, context.circumstances(stage, file.parent, digest))
    if distributed.is_main():
        monitor.finish(history, file.parent)
        save_checkpoint(file, expert_state(network, inputs.level), _record(inputs, digest))
        (file.parent / LATEST_CHECKPOINT).unlink(missing_ok=True)
    distributed.barrier()
    return history


def expert_spec(inputs: ExpertInputs) -> ModelSpec:
    """The network that the expert is trained in: one level, no fusion.

    The decoder is built because a network has one; nothing runs it here, so its number of outputs is of no matter.
    """
    return ModelSpec(
        inputs.backbone,
        inputs.plans.input_size.value,
        num_outputs=1,
        in_channels=len(inputs.plans.channel_names),
        levels=(inputs.level,),
        lora_rank=inputs.settings.model.lora_rank,
        fusion=None,
        decoder=BACKBONES.get(inputs.backbone).own_decoder,
    )


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
                f"the {level.value} expert was trained {what}",
                found=f"{file}: {_short(record.get(name))}",
                expected=_short(own),
                fix=again,
            )
    seen = sorted(set(hidden) & set(record.get("seen", ())))
    if seen:
        raise DataError(
            "E-EXP-21",
            f"the {level.value} expert was trained on scans that are scored here",
            found=f"{', '.join(seen[:5])}{' and more' if len(seen) > 5 else ''} in {file}",
            expected="an expert that has seen none of them",
            fix=f"{again}, or --transductive lets them in and says so in every report",
        )
    load_expert(network, level, checkpoint.tensors)


def rehearse(inputs: ExpertInputs, spec: ModelSpec, hidden: Collection[str]) -> None:
    """Build the network of stage 2 and read untrained experts into it, before hours are spent on training them.

    Raises:
        DataError, UsageError: whatever fine-tuning would raise.
    """
    untrained = expert_state(network_on_base(expert_spec(inputs), None, 0), inputs.level)
    network = network_on_base(spec, None, 0)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "expert.safetensors"
        for level in spec.levels:
            save_checkpoint(file, untrained, _record(inputs, ""))
            read_expert(network, level, file, inputs.base_digest, hidden)


def _record(inputs: ExpertInputs, digest: str) -> dict[str, Any]:
    cases = inputs.pool.cases.items()
    seen = [case if name == inputs.dataset else f"{name}/{case}" for name, names in cases for case in names]
    return {
        "level": inputs.level.value,
        "backbone": inputs.backbone,
        "base_digest": inputs.base_digest,
        "lora_rank": inputs.settings.model.lora_rank,
        "input_size": inputs.plans.input_size.value,
        "teacher": asdict(inputs.teacher.teacher.record) if inputs.teacher else None,
        "seen": sorted(seen),
        "digest": digest,
    }


def _objective(
    inputs: ExpertInputs, source: UnlabelledSource, network: SegmentationNetwork, seed: int, context: StageContext
) -> Objective[SegmentationNetwork]:
    plans, encoder = inputs.plans, network.image_encoder
    settings = getattr(inputs.settings, stage_name(inputs.level))
    if isinstance(settings, DistillationSettings) and inputs.teacher is not None:
        planned = inputs.teacher.teacher
        lesson = Lesson(
            ready_teacher(inputs.teacher, context.seed),
            settings,
            f"{planned.identity} {inputs.pool.key}",
            inputs.targets,
        )
        taught = DistillationObjective(source, plans, lesson, encoder, inputs.level.value, seed)
        taught.prepare(context.device)
        return taught
    if isinstance(settings, ImageSettings):
        return ImageObjective(source, plans, settings, encoder.shapes[-1].width, seed)
    if isinstance(settings, PatchSettings):
        return PatchObjective(source, plans, settings, encoder, seed)
    return PixelObjective(source, plans, settings, encoder, seed)


def _short(value: Any) -> str:
    return str(value)[:12]
