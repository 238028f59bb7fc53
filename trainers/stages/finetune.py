"""Stage 2: the parts that a method names learn from the labels; everything else is frozen (Table 8, Eq. 9 and 11)."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from samora_pipeline.contracts.checkpoints import save_checkpoint
from samora_pipeline.contracts.json_io import to_plain
from samora_pipeline.contracts.model_spec import ModuleSpec
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, RunConfig
from samora_pipeline.models.assembly import build_network, trained_state
from samora_pipeline.models.freezing import Part, parameters_by_part
from samora_pipeline.models.fusions.fusion import EpochContext, before_epoch
from samora_pipeline.models.samora import Network
from samora_pipeline.objectives.segmentation import SegmentationTerms, low_resolution, segmentation_loss, stage_weights
from samora_pipeline.optimization.optimizers import adamw, parameter_groups, warmup_cosine, warmup_polynomial
from samora_pipeline.reproducibility import seed_everything
from samora_pipeline.run_log import Line, logger
from samora_pipeline.slices.augmentation import allowed_flips, apply_augmentation, draw_augmentation
from samora_pipeline.slices.datasets import EpochOrder, SliceSource, labelled_ids
from trainers.loop.loading import Batch
from trainers.loop.loop import Training
from trainers.settings import FINETUNE, FinetuneSettings
from trainers.stages.experts import hidden_cases, read_expert
from trainers.stages.stage import RunContext, Stage, Trainable, full_precision, network_on_base

# Ours. Trainings that ended in a network which sees nothing but background had 0.58 to 0.79 and 0.02 to 0.06; sound
# ones with a Dice loss as high had gradients of 0.4 and more (docs/results.md).
_STUCK_DICE_LOSS, _STUCK_GRADIENT = 0.5, 0.1


class Finetune(Stage[FinetuneSettings]):
    """Base and experts are read, and what ``learns`` is trained on the labelled slices. Its result is the run's own."""

    Settings = FinetuneSettings
    file = FINAL_CHECKPOINT
    shared = False

    def inputs(self, run: RunConfig) -> Mapping[str, Any]:
        """Nothing is shared; a saved state belongs to one configuration."""
        return {}

    def build(self, run: RunConfig, context: RunContext) -> Trainable:
        """See ``Stage.build``."""
        network = self.network(run, context)
        task = LabelledTask(run, self.settings, network, context.dataset.slices, self.seed(run))
        return Trainable(network, task.training, learns=frozenset(Part(name) for name in self.settings.learns))

    def network(self, run: RunConfig, context: RunContext) -> Network:
        """The network before its first labelled slice: base and experts read, except in a draft, the rest random."""
        if isinstance(run.model, ModuleSpec):
            seed_everything(run.seed, "network")
            return build_network(run.model)
        copied = self.settings.mask_tokens == "copied"
        network = network_on_base(run.model, context.base_file, run.seed, copy_outputs=copied)
        for level, record in () if context.draft else run.experts.items():
            file = context.stages[record.name].result(context)
            read_expert(network, level, file, run.base_digest, hidden_cases(run))
        return network

    def save(self, trained: Trainable, run: RunConfig, file: Path) -> None:
        """See ``Stage.save``."""
        record = {
            "model": to_plain(run.model),
            "base_digest": run.base_digest,
            "trainer": run.trainer,
            "trained": sorted(self.settings.learns),
        }
        save_checkpoint(file, trained_state(trained.network), record)

    def finished(self, trained: Trainable, history: Sequence[Line]) -> None:
        """Warn where the training has collapsed to predicting background."""
        if is_stuck(history):
            has_fusion = bool(parameters_by_part(trained.network)[Part.FUSION])
            logger.warning(_stuck_advice(history[-1], self.settings, has_fusion=has_fusion))


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


class LabelledTask:
    """Labelled slices, augmented as in appendix A.3, and the loss of Eq. 9 on every stage of the decoder."""

    def __init__(self, run: RunConfig, settings: FinetuneSettings, network: Network, slices: Path, seed: int) -> None:
        self._network, self._plans, self._settings, self._seed = network, run.plans, settings, seed
        self._input_size = run.model.input_size
        ids = labelled_ids(run.selection, slices)
        self.source = SliceSource(slices, ids, run.plans, self._input_size, run.labels)
        self._regions = torch.from_numpy(run.labels.region_masks()) if run.labels.regions else None
        self._flips = allowed_flips(run.plans)

    def training(self) -> Training:
        """Describe the training for the loop."""
        settings, network = self._settings, self._network
        order = EpochOrder(len(self.source), settings.batch, self._seed)
        steps = len(_batches(order, settings, 0))
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        parts = parameters_by_part(network)
        groups = parameter_groups(
            trained.values(),
            settings.weight_decay,
            experts=parts[Part.EXPERTS].values(),
            fusion=parts[Part.FUSION].values(),
            fusion_rate=settings.fusion_rate,
            decay_all=settings.decay == "all",
        )
        return Training(
            stage=FINETUNE,
            parameters=trained,
            buffers=dict(network.named_buffers()),
            optimizer=adamw(groups, betas=settings.betas),
            learning_rate=_schedule(settings, steps),
            batches=partial(_batches, order, settings),
            load=self.load,
            loss=self.loss,
            epochs=settings.epochs,
            micro_batch=self._settings.micro_batch or self._settings.batch,
            clip_norm=settings.clip_norm,
            before_epoch=self.before_epoch,
            names=self.source.keys,
        )

    def before_epoch(self, epoch: int) -> None:
        """What a fusion does between epochs, such as LoRAHub's search for the weights of the experts."""
        device = next(self._network.parameters()).device

        def loss(indices: list[int]) -> Tensor:
            images, targets = self.source.images(indices).to(device), self.source.targets(indices).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                return self.loss_of(images, targets, epoch)[0]

        before_epoch(
            self._network,
            EpochContext(
                epoch=epoch,
                epochs=self._settings.epochs,
                loss=loss,
                slices=len(self.source),
                micro_batch=self._settings.micro_batch or self._settings.batch,
                seed=self._seed,
            ),
        )

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Images (B,C,N,N), targets (B,N,N) and the parameters of their augmentation."""
        drawn = draw_augmentation(
            self.source.keys(indices),
            self._input_size,
            self._settings.augmentation,
            self._flips,
            seed=self._seed,
            epoch=epoch,
        )
        return {"images": self.source.images(indices), "targets": self.source.targets(indices), "drawn": drawn}

    def loss(self, batch: Batch, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """0.2 cross-entropy + 0.8 Dice of the global batch (or of its part, where a batch is accumulated).

        Each stage of the decoder has both terms, weighed by ``stage_weights``, and its own loss among the metrics.
        """
        with full_precision(batch["images"]):
            images, targets = apply_augmentation(batch["images"], batch["targets"], batch["drawn"])
        return self.loss_of(images, targets, epoch)

    def loss_of(self, images: Tensor, targets: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of images (B,C,N,N) and targets (B,N,N) as they are, and its metrics."""
        terms = [self._terms(logits, targets) for logits in self._network.stages(images, targets)]
        weights = stage_weights(len(terms), epoch, self._settings.epochs)
        loss, entropy, dice = (
            torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum()
            for parts in zip(*terms, strict=True)
        )
        metrics = {"cross_entropy": entropy, "dice_loss": dice}
        if len(terms) > 1:
            metrics |= {f"stage_{number}_loss": term.loss.detach() for number, term in enumerate(terms, start=1)}
        return loss, metrics

    def _terms(self, logits: Tensor, targets: Tensor) -> SegmentationTerms:
        """The loss of one stage, at its own resolution or at the input's."""
        if self._settings.loss_at == "input":
            logits = functional.interpolate(logits, targets.shape[-2:], mode="bilinear", align_corners=False)
        height, width = logits.shape[-2:]
        return segmentation_loss(
            logits,
            low_resolution(targets, (height, width)),
            cross_entropy=self._settings.cross_entropy,
            dice=self._settings.dice,
            regions=self._regions,
        )


def _schedule(settings: FinetuneSettings, steps: int) -> Callable[[int], float]:
    """The learning rate by step, for ``steps`` of them in an epoch."""
    iterations = steps * (settings.schedule_epochs or settings.epochs)
    rule = warmup_cosine if settings.schedule == "cosine" else partial(warmup_polynomial, exponent=settings.exponent)
    return partial(rule, base=settings.learning_rate, warmup=settings.warmup, iterations=iterations)


def _batches(order: EpochOrder, settings: FinetuneSettings, epoch: int) -> list[list[int]]:
    return order.batches(epoch)[: settings.steps_per_epoch]
