"""How LoRAHub is fitted: the weights of the experts are searched for without gradients, inside stage 2.

LoRAHub judges weights by the loss of a language model that can answer from the start. A new decoder cannot, so it
first learns on the equal mixture for half of the epochs; then the weights are searched for with everything else as it
is, and the decoder goes on learning on what was found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.fusions.lorahub import BOUND, EVALUATIONS, PENALTY, hubs, set_weights
from samora_pipeline.optimization.search import minimise
from samora_pipeline.run_log import logger

SLICES = 64
"""labelled slices that weights are judged by, at most; LoRAHub has a handful of examples"""
STEP = 0.5
"""standard deviation of the first weights tried, a sixth of the range that they may have"""


def is_time_to_search(network: nn.Module, epoch: int, epochs: int) -> bool:
    """Whether an epoch (from 0) is to begin with the search: the middle one, if there are weights to be found."""
    return epoch == epochs // 2 and bool(hubs(network))


def find_weights(
    network: nn.Module, loss: Callable[[list[int]], Tensor], slices: int, micro_batch: int, seed: int
) -> None:
    """Give the network the weights with the lowest loss plus 0.05 times their mean absolute value.

    Args:
        network: in which LoRAHub joins the experts of every block.
        loss: of labelled slices by their numbers, of which each rank gives its share; no gradient is asked for.
        slices: how many there are.
        micro_batch: slices on one device at a time.
        seed: of the search; with the same seed and slices the same weights are found.
    """
    fusions, parts = hubs(network), _parts(slices, micro_batch)
    total = sum(len(part) for part in parts)

    def objective(weights: tuple[float, ...]) -> float:
        set_weights(fusions, weights)
        judged = sum(len(part) / total * float(loss(distributed.own_share(part))) for part in parts)
        return judged + PENALTY * sum(map(abs, weights)) / len(weights)

    start = fusions[0].weights.tolist()
    with torch.no_grad(), _evaluated(network):
        found = minimise(objective, start, bound=BOUND, step=STEP, evaluations=EVALUATIONS, seed=seed)
    set_weights(fusions, found.point)
    if distributed.is_main():
        levels = next(iter(expert_blocks(network).values())).levels
        named = ", ".join(f"{level} {weight:+.3f}" for level, weight in zip(levels, found.point, strict=True))
        logger.info(
            "LoRAHub: %s after %d evaluations on %d slices; loss and penalty %.4f, before %.4f",
            *(named, EVALUATIONS, total, found.value, found.start_value),
        )


def _parts(slices: int, micro_batch: int) -> list[list[int]]:
    """A fixed panel of slices, spread over all of them, in parts that fit the devices."""
    ranks = distributed.world_size()
    count = min(slices, max(SLICES, ranks))
    panel = [slices * number // count for number in range(count)]
    pieces = min(math.ceil(count / (micro_batch * ranks)), count // ranks)
    bounds = [count * number // pieces for number in range(pieces + 1)]
    return [panel[low:high] for low, high in pairwise(bounds)]


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    """Without the noise and dropout that decoders have in training."""
    before = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(before)
