"""The search for LoRAHub's weights before an epoch of stage 2: what it finds, and when it runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from samora_pipeline.contracts.model_spec import FusionSpec, ModelSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.fusions.fusion import EpochContext, before_epoch, fusions_of
from samora_pipeline.models.fusions.merges import BOUND, EVALUATIONS, PENALTY, SLICES
from samora_pipeline.models.samora import SegmentationNetwork

BEST = torch.tensor([0.9, -0.4, 0.2])


def network(fusion: str = "lorahub") -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(ModelSpec("samora_tiny", 64, 2, fusion=FusionSpec(fusion), lora_rank=4))


def find_weights(
    judged: SegmentationNetwork, loss: Callable[[list[int]], Tensor], *, slices: int, micro_batch: int
) -> None:
    before_epoch(judged, EpochContext(1, 2, loss, slices, micro_batch, seed=3))


class Judge:
    """A loss that is lowest at ``BEST``, and what it was asked."""

    def __init__(self, judged: SegmentationNetwork) -> None:
        self.network = judged
        self.asked: list[list[int]] = []
        self.training: set[bool] = set()

    def __call__(self, indices: list[int]) -> Tensor:
        self.asked.append(indices)
        self.training.add(self.network.training)
        weights = [fusion.weights for fusion in fusions_of(self.network)]
        assert all(torch.equal(one, weights[0]) for one in weights)
        assert not torch.is_grad_enabled()
        return 20 * (weights[0] - BEST).square().sum()


def test_all_blocks_get_the_weights_with_the_lowest_loss() -> None:
    judged = network()
    judge = Judge(judged)
    start = 20 * (torch.full((3,), 1 / 3) - BEST).square().sum()
    find_weights(judged, judge, slices=10, micro_batch=4)
    found = {tuple(fusion.weights.tolist()) for fusion in fusions_of(judged)}
    assert len(found) == 1
    (weights,) = found
    assert 20 * (torch.tensor(weights) - BEST).square().sum() + PENALTY < 0.2 * start
    assert max(map(abs, weights)) <= BOUND
    assert len(judge.asked) == EVALUATIONS * 3
    assert judge.asked[:3] == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]
    assert judge.training == {False}
    assert judged.training


def test_many_slices_are_judged_by_a_panel_spread_over_them() -> None:
    judged = network()
    judge = Judge(judged)
    find_weights(judged, judge, slices=640, micro_batch=1000)
    assert judge.asked[0] == list(range(0, 640, 10))
    assert len(judge.asked[0]) == SLICES


def test_without_a_preference_the_penalty_draws_the_weights_to_zero() -> None:
    judged = network()
    find_weights(judged, lambda indices: torch.tensor(0.5), slices=4, micro_batch=4)
    assert fusions_of(judged)[0].weights.abs().mean() < 1 / 3


@pytest.mark.parametrize(("epochs", "at"), [(1, 0), (2, 1), (20, 10), (30, 15)])
@pytest.mark.parametrize("fusion", ["lorahub", "lac", "hl_attn"])
def test_the_search_comes_in_the_middle_and_for_lorahub_alone(epochs: int, at: int, fusion: str) -> None:
    judged, searched = network(fusion), set()
    for epoch in range(epochs):

        def loss(indices: list[int], epoch: int = epoch) -> Tensor:
            searched.add(epoch)
            return torch.tensor(0.5)

        before_epoch(judged, EpochContext(epoch, epochs, loss, slices=1, micro_batch=1, seed=3))
    assert searched == ({at} if fusion == "lorahub" else set())
