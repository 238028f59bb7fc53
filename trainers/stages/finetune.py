"""Stage 2: the parts that a method names learn from the labels; everything else is frozen (Table 8, Eq. 9 and 11)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from samora_pipeline.contracts.checkpoints import Checkpoint, load_checkpoint, save_checkpoint
from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, RunConfig, TaughtBy
from samora_pipeline.errors import DataError
from samora_pipeline.files import digest_file
from samora_pipeline.models.assembly import build_network, load_trained, trained_state
from samora_pipeline.models.freezing import Part, parameters_by_part
from samora_pipeline.models.samora import Network
from samora_pipeline.reproducibility import seed_everything
from samora_pipeline.run_log import Line, logger
from trainers.consistency_settings import ConsistencySettings
from trainers.finetune_settings import FinetuneSettings
from trainers.settings import StageSettings
from trainers.stages.consistency import ConsistencyTask
from trainers.stages.dtc import DTCTask
from trainers.stages.encoder import network_on_base
from trainers.stages.experts import hidden_cases, read_expert
from trainers.stages.labelled import LabelledTask
from trainers.stages.mc_net import MCNetTask
from trainers.stages.self_training import SelfTrainingTask, make_soft_labels
from trainers.stages.ss_net import SSNetTask
from trainers.stages.stage import RunContext, Stage, Trainable
from trainers.stages.ua_mt import UAMTTask

# Ours. Trainings that ended in a network which sees nothing but background had 0.58 to 0.79 and 0.02 to 0.06; sound
# ones with a Dice loss as high had gradients of 0.4 and more (docs/results.md).
_STUCK_DICE_LOSS, _STUCK_GRADIENT = 0.5, 0.1
_TASKS: dict[str, Callable[..., LabelledTask]] = {
    **{"ua_mt": UAMTTask, "dtc": DTCTask, "mc_net": MCNetTask, "ss_net": SSNetTask},
}


class Finetune(Stage[FinetuneSettings]):
    """Base and experts are read, and what ``learns`` is trained on the labelled slices. Its result is the run's own."""

    Settings: ClassVar[type[StageSettings]] = FinetuneSettings
    file = FINAL_CHECKPOINT
    shared = False

    def inputs(self, run: RunConfig) -> Mapping[str, Any]:
        """Nothing is shared; a saved state belongs to one configuration."""
        return {}

    def build(self, run: RunConfig, context: RunContext) -> Trainable:
        """See ``Stage.build``."""
        network = self.network(run, context)
        task = self.task(run, context, network)
        learns = frozenset(Part(name) for name in self.settings.learns)
        return Trainable(network, task.training, learns=learns, head=task.head)

    def task(self, run: RunConfig, context: RunContext, network: Network) -> LabelledTask:
        """What is learned from, and the loss."""
        common = run, self.settings, network, context.dataset.slices, self.seed(run)
        if self.settings.self_training is not None:
            pool = context.read_pool(without=run.selection)
            return SelfTrainingTask(*common, pool, make_soft_labels(run, context))
        own = self.settings.consistency
        if own is None:
            return LabelledTask(*common)
        pool = context.read_pool(without=run.selection)
        if isinstance(own, ConsistencySettings):
            return ConsistencyTask(*common, pool, own)
        return _TASKS[own.kind](*common, pool, own)

    def network(self, run: RunConfig, context: RunContext) -> Network:
        """The network before its first labelled slice: that of the run it starts from, else ``_new``.

        Raises:
            DataError: ``E-START-04`` that run's checkpoint is another one by now, ``E-MODEL-03`` of another network,
                and what reading base and experts raises.
        """
        network = self._new(run, context)
        if run.started_from is not None and not context.draft:
            load_trained(network, _checkpoint_of(run.started_from, context).tensors)
        return network

    def _new(self, run: RunConfig, context: RunContext) -> Network:
        """Base and experts read, except in a draft, the rest random."""
        if isinstance(run.model, ModuleSpec):
            seed_everything(run.seed, "network")
            return self._with_prior(build_network(run.model), run)
        copied = self.settings.mask_tokens == "copied"
        network = network_on_base(run.model, context.base_file, run.seed, copy_outputs=copied)
        for level, record in () if context.draft else run.experts.items():
            file = context.stages[record.name].result(context)
            read_expert(network, level, file, run.base_digest, hidden_cases(run))
        return self._with_prior(network, run)

    def _with_prior(self, network: Network, run: RunConfig) -> Network:
        if self.settings.foreground_prior is not None:
            network.start_with_foreground(self.settings.foreground_prior, regions=run.labels.regions)
        return network

    def save(self, trained: Trainable, run: RunConfig, file: Path) -> None:
        """See ``Stage.save``."""
        record = {
            "model": to_plain(run.model),
            "base_digest": run.base_digest,
            "config_digest": run.deciding_digest,
            "trainer": run.trainer,
            "trained": sorted(self.settings.learns),
        }
        save_checkpoint(file, trained_state(trained.network), record)

    def finished(self, trained: Trainable, history: Sequence[Line]) -> None:
        """Warn where the training has collapsed to predicting background."""
        if is_stuck(history):
            has_fusion = bool(parameters_by_part(trained.network)[Part.FUSION])
            logger.warning(_stuck_advice(history[-1], self.settings, has_fusion=has_fusion))


def _checkpoint_of(start: TaughtBy, context: RunContext) -> Checkpoint:
    file = context.pretraining.parent.parent / start.run / FINAL_CHECKPOINT
    found = digest_file(file) if file.is_file() else "no checkpoint"
    if found != start.checkpoint:
        raise DataError("E-START-04", run=start.run, found=found[:12], digest=start.checkpoint[:12])
    return load_checkpoint(file)


def is_stuck(history: Sequence[Line]) -> bool:
    """Whether the last epoch was far from the labels and had next to no gradient: softmax is saturated."""
    last = history[-1] if history else {}
    loss, gradient = last.get("dice_loss"), last.get("gradient_norm")
    if not isinstance(loss, float) or not isinstance(gradient, float):
        return False
    return loss > _STUCK_DICE_LOSS and gradient < _STUCK_GRADIENT


def _stuck_advice(last: Line, settings: FinetuneSettings, *, has_fusion: bool) -> str:
    lower = f"--set finetune.learning_rate={settings.learning_rate / 10:g}"
    if has_fusion:
        lower = f"--set finetune.fusion_rate={settings.fusion_rate / 10:g}, or {lower}"
    return (
        f"the training has come to rest far from the labels (Dice loss {last['dice_loss']:.2f}, gradient norm "
        f"{last['gradient_norm']:.2f}): it probably sees nothing but background. Train again with another --name and "
        f"{lower}"
    )
