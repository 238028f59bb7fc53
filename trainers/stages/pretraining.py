"""What the stages without labels share: their batches, schedule and optimizer (Table 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.optimization.optimizers import adamw, parameter_groups
from samora_pipeline.optimization.schedules import warmup_cosine
from samora_pipeline.slices.datasets import EpochOrder
from trainers.config import PretrainingSettings
from trainers.loading import Batch
from trainers.loop import Training


class Objective(Protocol):
    """A task that needs no labels."""

    @property
    def head(self) -> nn.Module:
        """What is trained with the encoder and thrown away."""
        ...

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Read slices and draw what is random about them, per slice and epoch."""
        ...

    def loss(self, network: SegmentationNetwork, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and metrics of the global batch from this rank's share; all is on one device."""
        ...


def pretraining(
    stage: str,
    network: SegmentationNetwork,
    objective: Objective,
    settings: PretrainingSettings,
    slices: int,
    seed: int,
    *,
    experts: Mapping[str, nn.Parameter],
    after_first_step: Callable[[], None],
) -> Training:
    """Describe the training of all parameters of ``network`` that require a gradient, and of the objective's head.

    A batch that must not be cut (``micro_batch`` None) is never smaller than its neighbours either: the tail of an
    epoch is left to the next one's shuffle. ``experts`` are the LoRA parameters among the trained ones (no decay).
    """
    trained = {f"network.{name}": p for name, p in network.named_parameters() if p.requires_grad}
    trained |= {f"head.{name}": parameter for name, parameter in objective.head.named_parameters()}
    order = EpochOrder(slices, min(settings.batch, slices), seed)
    steps = len(_batches(order, settings, 0))
    iterations = steps * settings.epochs
    return Training(
        stage=stage,
        parameters=trained,
        optimizer=adamw(
            parameter_groups(trained.values(), settings.weight_decay, experts=experts.values()), betas=settings.betas
        ),
        learning_rate=partial(
            warmup_cosine,
            base=settings.learning_rate,
            warmup=round(settings.warmup_fraction * iterations),
            iterations=iterations,
        ),
        batches=partial(_batches, order, settings),
        load=objective.load,
        loss=lambda batch, _epoch: objective.loss(network, batch),
        epochs=settings.epochs,
        micro_batch=settings.micro_batch,
        clip_norm=settings.clip_norm,
        after_first_step=after_first_step,
    )


def _batches(order: EpochOrder, settings: PretrainingSettings, epoch: int) -> list[list[int]]:
    batches = order.batches(epoch)
    if settings.micro_batch is None and len(batches) > 1:
        batches = [batch for batch in batches if len(batch) == order.batch_size]
    return batches[: settings.steps_per_epoch]
