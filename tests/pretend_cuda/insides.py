"""All that these tests touch of the project besides its commands. What is renamed there has this file to change.

``around_steps``, ``places_of_memory``, ``in_single_precision`` and ``cost_of_step`` hook into a run; ``STAGES`` are
the trainings that ``samora_train`` does at its defaults, built without data.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.model_spec import Level, ModelSpec
from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans
from samora_pipeline.inference import predictor
from samora_pipeline.inference.precision import Arithmetic
from samora_pipeline.models.catalog import TEACHERS
from samora_pipeline.models.freezing import Part, freeze, parameters_by_part
from samora_pipeline.objectives.features import ChannelStatistics
from tests.pretend_cuda.full_size import Cost, CostOfSecondStep, Slices
from trainers import methods, recipes
from trainers.loop import accumulation, loop, monitors
from trainers.loop.memory import Fit, fit
from trainers.loop.pretraining import pretraining
from trainers.runs import execution
from trainers.stages import distillation, finetune, labelled, objectives, teachers
from trainers.stages.encoder import network_on_base

HALF = Arithmetic(torch.bfloat16)
"""what training takes on a device that has it"""


@contextlib.contextmanager
def around_steps(before: Callable[[int], None], after: Callable[[str, int], None]) -> Iterator[None]:
    """Call ``before`` with the number of each step of a training and ``after`` with its stage and micro-batches."""
    original = loop._Loop._step

    def step(self: Any, parts: Any, loaded: Any, batch: Any) -> float | None:
        before(self.state.step)
        loss = original(self, parts, loaded, batch)
        after(self.training.stage, len(parts))
        return loss

    loop._Loop._step = step  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop._Loop._step = original  # type: ignore[method-assign]


def final_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint."""
    return load_checkpoint(file).tensors


def places_of_memory() -> dict[str, tuple[Any, str, int]]:
    """Where memory may run out: owner, name, and which call of it finds none."""
    return {
        "step": (labelled.LabelledTask, "loss", 2),
        "one step": (accumulation.Accumulation, "_loss", 1),
        "weights": (torch.nn.Module, "to", 1),
        "monitor": (monitors.Monitor, "finish", 1),
        "compare": (execution, "compare_experts", 1),
        "prediction weights": (predictor, "prepared", 1),
        "decode": (predictor.Predictor, "decode", 1),
        "prediction halves its step": (predictor.Predictor, "_average", 1),
    }


def in_single_precision() -> None:
    """For the rest of the process: no bf16 and no autocast, so that losses can be compared."""
    torch.cuda.is_bf16_supported = lambda including_emulation=True: False
    torch.autocast = lambda *arguments, **options: contextlib.nullcontext()  # type: ignore[misc, assignment]
    for module in (finetune, objectives):
        module.full_precision = lambda images: contextlib.nullcontext()  # type: ignore[attr-defined]


def cost_of_step(device: Any, training: Any) -> Cost:
    """Two steps by the project's own loop, of which the second is counted."""
    counter = CostOfSecondStep(device)
    take_steps(training, device.device, 2, counter)
    assert counter.updates == 2
    return counter.cost


def take_steps(
    training: Any, device: torch.device, steps: int, after_update: Callable[..., None], arithmetic: Arithmetic = HALF
) -> list[dict[str, Any]]:
    """An epoch of a training by the project's own loop, which leaves nothing behind; its lines of log.jsonl."""
    training.optimizer.register_step_post_hook(after_update)
    own = training.batches
    short = replace(training, monitor=None, epochs=1, after_first_step=lambda: None, batches=lambda _: own(0)[:steps])
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(loop, "save_state"):
        place = loop.LoopContext(Path(folder), device, seed=0, digest="x", resume_command="", arithmetic=arithmetic)
        return loop.train(short, place)


class FullSize:
    """What the stages train, for slices of ``size`` pixels, on the device that is pretended while it is built."""

    def __init__(
        self, size: int = 224, backbone: str = "sam_vit_b", micro_batch: int | None = 16, source: Any = None
    ) -> None:
        self.size, self.backbone, self.cuda = size, backbone, torch.device("cuda", 0)
        self.micro_batch = micro_batch
        self.source: Any = source or Slices(size)
        self.plans = Plans(
            dataset="D",
            channel_names=("CT",),
            slice_axis=Planned("axial", "tests"),
            in_plane=Planned("resize", "tests"),
            in_plane_spacing=Planned(None, "tests"),
            slice_size=Planned(size, "tests"),
            input_size=Planned(size, "tests"),
            channels=Planned("repeat", "tests"),
            intensity=Planned((IntensityRule("window", -100.0, 300.0),), "tests"),
            mirror=Planned(True, "tests"),
            fingerprint_digest="x",
        )

    def teacher(self, settings: Any) -> Any:
        """The training of a teacher on the pool."""
        network: Any = TEACHERS.get(settings.network).build(self.size).to(self.cuda).train()
        if "simclr" in settings.network:
            task: Any = teachers.ContrastiveTeacher(self.source, self.plans, settings, network, 0)
        else:
            task = teachers.MaskedTeacher(self.source, self.plans, settings, network, 0)
        names = dict(network.named_parameters())
        tensors = network.state_dict(keep_vars=True)
        buffers = {name: value for name, value in tensors.items() if name not in names}
        return self._pretraining("teacher", network, task, settings, experts={}, buffers=buffers)

    def expert(self, settings: Any, objective: Callable[[Any, Any], Any]) -> Any:
        """The training of one level's LoRA by an objective."""
        spec = ModelSpec(self.backbone, self.size, 1, levels=(Level.IMAGE,), fusion=None, lora_rank=4)
        network = network_on_base(spec, None, 0)
        freeze(network, frozenset({Part.EXPERTS}))
        task = objective(settings, network)
        network.to(self.cuda)
        task.head.to(self.cuda)
        return self._pretraining("expert", network, task, settings, experts=parameters_by_part(network)[Part.EXPERTS])

    def _pretraining(self, stage: str, network: Any, task: Any, settings: Any, **tensors: Any) -> Any:
        return pretraining(stage, network, task, settings, len(self.source), 0, names=self.source.keys, **tensors)

    def taught_by(self, name: str) -> Callable[[Any, Any], Any]:
        """The objective of distillation; the statistics of the teacher's features are taken as known."""

        def objective(settings: Any, network: Any) -> Any:
            teacher: Any = TEACHERS.get(name).build(self.size)
            teacher.freeze()
            task = distillation.DistillationObjective(
                self.source, self.plans, settings, network, 0, teacher=teacher, level="image"
            )
            teacher.to(self.cuda)
            width = task._shape.width
            task._statistics = ChannelStatistics(torch.zeros(width, device="cuda"), torch.ones(width, device="cuda"))
            return task

        return objective

    def contrast(self, settings: Any, network: Any) -> Any:
        """The image level's own objective."""
        return objectives.ImageObjective(self.source, self.plans, settings, network, 0)

    def masking(self, settings: Any, network: Any) -> Any:
        """The patch level's own objective."""
        return objectives.PatchObjective(self.source, self.plans, settings, network, 0)

    def denoising(self, settings: Any, network: Any) -> Any:
        """The pixel level's own objective."""
        return objectives.PixelObjective(self.source, self.plans, settings, network, 0)

    def network(self, trainer: type[methods.Trainer]) -> Any:
        """The network of a trainer on the device: eight organs and a background."""
        model = trainer.model
        spec = ModelSpec(
            self.backbone, self.size, 9, lora_rank=model.lora_rank, fusion=model.fusion, decoder=model.decoder
        )
        network = network_on_base(spec, None, 0)
        freeze(network, frozenset({Part.FUSION, Part.DECODER, Part.PROMPT}))
        return network.to(self.cuda)

    def labelled(self, trainer: type[methods.Trainer]) -> Any:
        """Stage 2 of a trainer."""
        network = self.network(trainer)
        task = labelled.LabelledTask.__new__(labelled.LabelledTask)
        task._settings = replace(trainer.finetune, micro_batch=self.micro_batch)
        task._network, task._plans, task._seed, task._input_size = network, self.plans, 0, self.size
        task.head = None
        task.source, task._regions, task._flips = self.source, None, (True, True)
        return task.training()


_IMAGE = recipes.IMAGE_TEACHER
_B, _WIDE, _512 = FullSize(), FullSize(micro_batch=None), FullSize(512, micro_batch=2)
_HIERA, _L, _H = (FullSize(backbone=name) for name in ("sam2_hiera_b+", "sam_vit_l", "sam_vit_h"))

STAGES: dict[str, Callable[[], Any]] = {
    "teacher_image": lambda: _B.teacher(_IMAGE),
    "teacher_image checkpointing": lambda: _B.teacher(replace(_IMAGE, checkpointing=True)),
    "teacher_image uncut": lambda: _B.teacher(replace(_IMAGE, norm_batch=512)),
    "teacher_image uncut checkpointing": lambda: _B.teacher(replace(_IMAGE, norm_batch=512, checkpointing=True)),
    "teacher_patch": lambda: _B.teacher(recipes.PATCH_TEACHER),
    "expert_image": lambda: _B.expert(recipes.DISTILLED_IMAGE, _B.taught_by("simclr_r50_2x_sk1")),
    "expert_patch": lambda: _B.expert(recipes.DISTILLED_PATCH, _B.taught_by("mae_vit_l")),
    "expert_image scratch": lambda: _B.expert(recipes.CONTRASTIVE, _B.contrast),
    "expert_patch scratch": lambda: _B.expert(recipes.MASKED, _B.masking),
    "expert_pixel": lambda: _B.expert(recipes.DENOISING, _B.denoising),
    "finetune": lambda: _B.labelled(methods.SAMoraTrainer),
    "finetune 1 x 32": lambda: _WIDE.labelled(methods.SAMoraTrainer),
    "finetune HSAMora": lambda: _B.labelled(methods.HSAMoraTrainer),
    "finetune SAMora2": lambda: _HIERA.labelled(methods.SAMora2Trainer),
    "finetune 512 px": lambda: _512.labelled(methods.SAMoraTrainer),
    "finetune ViT-L": lambda: _L.labelled(methods.SAMoraTrainer),
    "finetune ViT-H": lambda: _H.labelled(methods.SAMoraTrainer),
}
"""trainings by name, each built when called within a pretended device"""
DEFAULT = (
    *("teacher_image", "teacher_patch", "expert_image", "expert_patch", "expert_image scratch", "expert_patch scratch"),
    *("expert_pixel", "finetune 1 x 32"),
)
"""all stages that SAMoraTrainer has by default, with the teachers of recipe ``full`` and without (``scratch``)"""


class Fitted(NamedTuple):
    """What a stage chose on a device, and ``weights`` in GiB that are there before its first step."""

    training: Any
    fit: Fit
    weights: float

    @property
    def predicted(self) -> float:
        """GiB at the peak."""
        return self.weights + self.fit.need / 2**30


def fitted_stage(device: Any, name: str) -> Fitted:
    """Build a stage on a device, which refuses what it does not have, and let it choose how to fit."""
    device.limit = device.total
    return fit_of(STAGES[name](), device.device)


def fit_of(training: Any, device: torch.device) -> Fitted:
    """Let a training choose how to fit."""
    fitted, chosen = fit(training, device, HALF)
    return Fitted(fitted, chosen, torch.cuda.memory_allocated(device) / 2**30)


def peak_of(device: Any, found: Fitted) -> float:
    """GiB that the second of two steps holds; a step holds no more for the other parts of a batch, so two will do."""
    training = found.training
    part = training.norm_batch or training.micro_batch or found.fit.largest
    batches = [batch[: 2 * part] for batch in training.batches(0)]
    return cost_of_step(device, replace(training, batches=lambda epoch: batches)).peak_gib
