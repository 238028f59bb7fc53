"""What the stages without labels share: their batches, schedule and optimizer (Table 7)."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from samora_pipeline.contracts.plans import Plans
from samora_pipeline.models.recomputation import can_recompute, has_batch_norm, recompute, recomputes
from samora_pipeline.models.reduced_weights import ReducedWeights
from samora_pipeline.optimization.optimizers import (
    adamw,
    lars,
    linear_rate,
    parameter_groups,
    square_root_rate,
    warmup_cosine,
    warmup_iterations,
)
from samora_pipeline.slices.augmentation import allowed_flips
from samora_pipeline.slices.datasets import EpochOrder, UnlabelledSource
from samora_pipeline.slices.views import draw_views
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


S = TypeVar("S", bound=PretrainingSettings)


class Objective(Generic[Network, S]):
    """A task on the slices of a pool, each seen in a view that is drawn for it; the head depends on the network.

    Args:
        source: the slices.
        plans: the plan of the run's dataset, whose channels and flips count.
        settings: of the stage.
        network: what learns.
        seed: of everything that is drawn.
    """

    def __init__(self, source: UnlabelledSource, plans: Plans, settings: S, network: Network, seed: int) -> None:
        self._source, self._plans, self._settings, self._seed = source, plans, settings, seed
        self._flips = allowed_flips(plans)
        self.head = self.make_head(network, source.channels)

    @abstractmethod
    def make_head(self, network: Network, channels: int) -> nn.Module:
        """What is trained with the network and thrown away, with random weights."""

    def load(self, indices: list[int], epoch: int) -> Batch:
        """Images (B,C,N,N) and the parameters of their views."""
        return {"images": self._source.images(indices), "view": self._views_of(indices, epoch)}

    @property
    def coupled(self) -> bool:
        """Whether the loss of a batch is more than the mean of its parts'."""
        return False

    @abstractmethod
    def loss(self, network: Network, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and metrics of the global batch from this rank's share; all is on one device."""

    @abstractmethod
    def examine(self, network: Network, batch: Batch) -> Examination:
        """The same task on a panel, with all that a monitor wants to see; without gradients."""

    def _views_of(self, indices: list[int], epoch: int, view: int = 0) -> Any:
        keys = self._source.keys(indices)
        return draw_views(keys, self._settings.views, self._flips, seed=self._seed, epoch=epoch, view=view)


def pretraining(
    stage: str,
    network: nn.Module,
    objective: Objective[Any, Any],
    settings: PretrainingSettings,
    slices: int,
    seed: int,
    *,
    experts: Mapping[str, nn.Parameter],
    buffers: Mapping[str, Tensor] | None = None,
    names: Callable[[list[int]], Sequence[str]] = numbered,
) -> Training:
    """Describe the training of all parameters of ``network`` that require a gradient, and of the objective's head.

    ``experts`` are the LoRA parameters among the trained ones (no decay).
    ``names`` turns numbers of slices into names, for those of a step that is left out.
    """
    trained = {f"network.{name}": p for name, p in network.named_parameters() if p.requires_grad}
    trained |= {f"head.{name}": parameter for name, parameter in objective.head.named_parameters()}
    order = EpochOrder(slices, min(settings.batch, slices), seed)
    steps = len(_batches(order, settings, 0))
    groups = parameter_groups(trained.values(), settings.weight_decay, experts=list(experts.values()))
    first_beta = settings.betas[0]
    optimizer = (
        lars(groups, momentum=first_beta) if settings.optimizer == "lars" else adamw(groups, betas=settings.betas)
    )
    return Training(
        stage=stage,
        parameters=trained,
        buffers=buffers or {},
        optimizer=optimizer,
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
        coupled=objective.coupled,
        norm_batch=settings.norm_batch if has_batch_norm(network) else None,
        recompute=partial(recompute, network) if can_recompute(network) else None,
        recomputes=recomputes(network),
        clip_norm=settings.clip_norm,
        names=names,
        weights=ReducedWeights([network, objective.head]),
    )


def peak_rate(settings: PretrainingSettings, batch: int) -> float:
    """The learning rate at the end of the warm-up, by the stage's rule for the batch that is really used."""
    if settings.rate_rule == "square_root":
        return square_root_rate(settings.learning_rate, batch)
    if settings.rate_rule == "linear":
        return linear_rate(settings.learning_rate, batch)
    return settings.learning_rate


def _batches(order: EpochOrder, settings: PretrainingSettings, epoch: int) -> list[list[int]]:
    batches = order.batches(epoch)
    if settings.whole_batches and len(batches) > 1:
        batches = [batch for batch in batches if len(batch) == order.batch_size]
    return batches[: settings.steps_per_epoch]
