"""What a fusion of experts is: of the outputs of their branches, or of their weights.

Shapes: B batch, H W token grid, D width, E experts.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from samora_pipeline.contracts.part_options import NoOptions
from samora_pipeline.models.lora import LowRank


@dataclass(frozen=True)
class EpochContext:
    """What a fusion may use before an epoch of stage 2.

    Args:
        epoch: the one that begins, from 0.
        epochs: of the stage.
        loss: of labelled slices by their numbers, without gradient. Every rank passes its own share of the same
            slices (``distributed.own_share``) and gets the loss of all of them.
        slices: how many labelled slices there are.
        micro_batch: slices on one device at a time.
        seed: of the stage.
    """

    epoch: int
    epochs: int
    loss: Callable[[list[int]], Tensor]
    slices: int
    micro_batch: int
    seed: int


class Joining(nn.Module):
    """What joins the experts of one block: a Fusion or a Merge. There is one instance per block.

    Args:
        options: an instance of ``Options``, a frozen dataclass with the options of the class and their defaults.
        num_experts: E.
        dim: the block's output width D.
        window: side of its attention window in tokens (0: global).
    """

    Options: ClassVar[type[Any]] = NoOptions

    def __init__(self, options: Any, *, num_experts: int, dim: int, window: int) -> None:
        super().__init__()

    @classmethod
    def before_epoch(cls, network: nn.Module, blocks: Sequence[Self], context: EpochContext) -> None:
        """Change the instances of all ``blocks`` of a network before an epoch, without gradients.

        What it finds must depend on the context and on the network's state alone, so that a resumed run finds it too.
        """


class Fusion(Joining):
    """Joins the branches of the experts.

    ``only_weighs``: it does nothing but weigh the experts, so while they have no effect it has nothing to learn.
    """

    only_weighs: ClassVar[bool] = False

    @abstractmethod
    def forward(self, base: Tensor, experts: Tensor) -> Tensor:
        """From the base branch F (B,H,W,D) and the experts' branches (E,B,H,W,D), levels from high to low, to what
        is added to F, (B,H,W,D) (Eq. 7).
        """


class Merge(Joining):
    """Joins the experts by their weights: a single LoRA takes their place, and a single branch is run.

    The scope of a FusionSpec is of no matter to it.
    """

    @abstractmethod
    def forward(self, experts: Sequence[LowRank]) -> LowRank:
        """From the factors of the experts, levels from high to low, to the factors of the one that is run."""


def fusions_of(network: nn.Module) -> list[Any]:
    """The Fusion or Merge of every block below ``network``, in order; all of one class."""
    return [module for module in network.modules() if isinstance(module, Joining)]


def before_epoch(network: nn.Module, context: EpochContext) -> None:
    """Call the hook of a network's fusion, if it has one (``Joining.before_epoch``)."""
    blocks = fusions_of(network)
    if blocks:
        type(blocks[0]).before_epoch(network, blocks, context)
