"""Fusions that join the experts by their weights: LAC and LoRAHub."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.contracts.part_options import NoOptions
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.fusions.fusion import EpochContext, Merge
from samora_pipeline.models.lora import LowRank
from samora_pipeline.optimization.search import minimise
from samora_pipeline.reproducibility import derived_seed
from samora_pipeline.run_log import logger

BOUND = 1.5
"""no weight leaves [-1.5, 1.5] (sail-sg/lorahub, algorithm.py)"""
EVALUATIONS = 40
"""weights tried (sail-sg/lorahub, example.py)"""
PENALTY = 0.05
"""of the mean absolute weight, added to the few-shot loss (sail-sg/lorahub, algorithm.py)"""
SLICES = 64
"""labelled slices that weights are judged by, at most; LoRAHub has a handful of examples"""
STEP = 0.5
"""standard deviation of the first weights tried, a sixth of the range that they may have"""


class LAC(Merge):
    """Linear arithmetic composition of the experts' weights (Zhang et al., NeurIPS 2023, arXiv 2306.14870).

    The mean of the experts' deltas: W + 1/E sum B_i A_i, as one LoRA of rank E r. It has nothing to learn.
    The weights of a composition sum to one and are equal unless somebody chooses them. It is the deltas that are
    averaged; averaging A and B apart, as LoRAHub does, would also multiply one expert's B with another's A.
    """

    def forward(self, experts: Sequence[LowRank]) -> LowRank:
        """The factors of E experts of rank r to one of rank E r, whose product is the mean of theirs."""
        share = 1 / len(experts)
        return LowRank(
            torch.cat([expert.q_a for expert in experts]),
            torch.cat([expert.q_b * share for expert in experts], dim=1),
            torch.cat([expert.v_a for expert in experts]),
            torch.cat([expert.v_b * share for expert in experts], dim=1),
        )


class LoRAHub(Merge):
    """One weight per expert for the whole network, found without gradients (arXiv 2307.13269).

    A = sum w_i A_i and B = sum w_i B_i, so that the delta B A also holds products across experts (its code).
    The weights w are the same on every block and no parameters. They start equal, at 1/E, and are searched for before
    the middle epoch of stage 2. LoRAHub judges weights by the loss of a language model that can answer from the start.
    A new decoder cannot, so it first learns on the equal mixture; then the weights are searched for with everything
    else as it is, and the decoder goes on learning on what was found.
    """

    weights: Tensor

    def __init__(self, options: NoOptions, *, num_experts: int, dim: int, window: int) -> None:
        super().__init__(options, num_experts=num_experts, dim=dim, window=window)
        self.register_buffer("weights", torch.full((num_experts,), 1 / num_experts))

    def forward(self, experts: Sequence[LowRank]) -> LowRank:
        """The factors of the experts to their weighted sums, of the same rank."""
        weights = self.weights.to(experts[0].q_a.dtype)
        stacked = (torch.stack(parts) for parts in zip(*experts, strict=True))
        return LowRank(*(torch.einsum("e,eij->ij", weights, parts) for parts in stacked))

    @classmethod
    def before_epoch(cls, network: nn.Module, blocks: Sequence["LoRAHub"], context: EpochContext) -> None:
        """Before the middle epoch, find the weights with the lowest loss plus 0.05 times their mean absolute value."""
        if context.epoch != context.epochs // 2:
            return
        parts = _parts(context.slices, context.micro_batch)
        total = sum(len(part) for part in parts)

        def objective(weights: tuple[float, ...]) -> float:
            set_weights(blocks, weights)
            judged = sum(len(part) / total * float(context.loss(distributed.own_share(part))) for part in parts)
            return judged + PENALTY * sum(map(abs, weights)) / len(weights)

        start, seed = blocks[0].weights.tolist(), derived_seed(context.seed, "lorahub")
        was_training = network.training
        network.eval()  # without the noise and dropout that decoders have in training
        with torch.no_grad():
            found = minimise(objective, start, bound=BOUND, step=STEP, evaluations=EVALUATIONS, seed=seed)
        network.train(was_training)
        set_weights(blocks, found.point)
        if distributed.is_main():
            levels = next(iter(expert_blocks(network).values())).levels
            named = ", ".join(f"{level} {weight:+.3f}" for level, weight in zip(levels, found.point, strict=True))
            logger.info(
                "LoRAHub: %s after %d evaluations on %d slices; loss and penalty %.4f, before %.4f",
                *(named, EVALUATIONS, total, found.value, found.start_value),
            )


def set_weights(blocks: Iterable[LoRAHub], weights: Sequence[float]) -> None:
    """Give all blocks the same weights, one per expert, levels from high to low."""
    for block in blocks:
        block.weights.copy_(torch.as_tensor(weights, dtype=block.weights.dtype))


def _parts(slices: int, micro_batch: int) -> list[list[int]]:
    """A fixed panel of slices, spread over all of them, in parts that fit the devices."""
    ranks = distributed.world_size()
    count = min(slices, max(SLICES, ranks))
    panel = [slices * number // count for number in range(count)]
    pieces = min(math.ceil(count / (micro_batch * ranks)), count // ranks)
    bounds = [count * number // pieces for number in range(pieces + 1)]
    return [panel[low:high] for low, high in pairwise(bounds)]
