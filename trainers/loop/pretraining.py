"""What the stages without labels share: their batches, schedule and optimizer (Table 7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from samora_pipeline.optimization.optimizers import (
    adamw,
    lars,
    linear_rate,
    parameter_groups,
    square_root_rate,
    warmup_cosine,
    warmup_iterations,
)
from samora_pipeline.slices.datasets import EpochOrder
from trainers.loop.loading import Batch
from trainers.loop.loop import Training, numbered
from trainers.settings import PretrainingSettings

Network = TypeVar("Network", bound=nn.Module, contravariant=True)


@dataclass(frozen=True)
class Examination:
    """What an objective shows on a panel of B slices.

    ``measures`` are numbers by name. ``features`` (B,D) are one vector per slice. ``columns`` are pictures (B,N,N) in
    [0,1] by their title, the last one an error.
    """

    loss: Tensor
    measures: Mapping[str, float]
    features: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol[Network]):
    """A task that needs no labels."""

    @property
    def head(self) -> nn.Module:
        """What is trained with the network and thrown away; without parameters where there is no such thing."""
        ...

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Read slices and draw what is random about them, per slice and epoch."""
        ...

    def loss(self, network: Network, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and metrics of the global batch from this rank's share; all is on one device."""
        ...

    def examine(self, network: Network, batch: Batch) -> Examination:
        """The same task on a panel, with all that a monitor wants to see; without gradients."""
        ...


def pretraining(
    stage: str,
    network: nn.Module,
    objective: Objective[Any],
    settings: PretrainingSettings,
    slices: int,
    seed: int,
    *,
    experts: Mapping[str, nn.Parameter],
    after_first_step: Callable[[], None] = lambda: None,
    buffers: Mapping[str, Tensor] | None = None,
    monitor: Callable[[], Mapping[str, float]] | None = None,
    names: Callable[[list[int]], Sequence[str]] = numbered,
) -> Training:
    """Describe the training of all parameters of ``network`` that require a gradient, and of the objective's head.

    A batch that must not be cut (``micro_batch`` None) is never smaller than its neighbours either: the tail of an
    epoch is left to the next one's shuffle. ``experts`` are the LoRA parameters among the trained ones (no decay).
    ``names`` turns numbers of slices into names, for those of a step that is left out.
    """
    trained = {f"network.{name}": p for name, p in network.named_parameters() if p.requires_grad}
    trained |= {f"head.{name}": parameter for name, parameter in objective.head.named_parameters()}
    order = EpochOrder(slices, min(settings.batch, slices), seed)
    steps = len(_batches(order, settings, 0))
    return Training(
        stage=stage,
        parameters=trained,
        buffers=buffers or {},
        optimizer=_optimizer(trained, settings, list(experts.values())),
        learning_rate=partial(
            warmup_cosine,
            base=peak_rate(settings, order.batch_size),
            warmup=warmup_iterations(
                settings.warmup, settings.warmup_unit, steps_per_epoch=steps, epochs=settings.epochs
            ),
            iterations=steps * settings.epochs,
        ),
        batches=partial(_batches, order, settings),
        load=objective.load,
        loss=lambda batch, _epoch: objective.loss(network, batch),
        epochs=settings.epochs,
        micro_batch=settings.micro_batch,
        clip_norm=settings.clip_norm,
        after_first_step=after_first_step,
        monitor=monitor,
        names=names,
    )


def peak_rate(settings: PretrainingSettings, batch: int) -> float:
    """The learning rate at the end of the warm-up, by the stage's rule for the batch that is really used."""
    if settings.rate_rule == "square_root":
        return square_root_rate(settings.learning_rate, batch)
    if settings.rate_rule == "linear":
        return linear_rate(settings.learning_rate, batch)
    return settings.learning_rate


def _optimizer(
    trained: Mapping[str, nn.Parameter], settings: PretrainingSettings, experts: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    groups = parameter_groups(trained.values(), settings.weight_decay, experts=experts)
    if settings.optimizer == "lars":
        return lars(groups, momentum=settings.betas[0])
    return adamw(groups, betas=settings.betas)


def _batches(order: EpochOrder, settings: PretrainingSettings, epoch: int) -> list[list[int]]:
    batches = order.batches(epoch)
    if settings.micro_batch is None and len(batches) > 1:
        batches = [batch for batch in batches if len(batch) == order.batch_size]
    return batches[: settings.steps_per_epoch]
