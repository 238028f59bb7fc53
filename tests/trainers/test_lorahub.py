"""The search for LoRAHub's weights inside stage 2: what it finds, when it runs, kills and ranks."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor

from samora_pipeline.contracts.model_spec import FusionSpec, ModelSpec
from samora_pipeline.models.assembly import build_network
from samora_pipeline.models.fusions.lorahub import BOUND, EVALUATIONS, PENALTY, hubs
from samora_pipeline.models.samora import SegmentationNetwork
from tests.trainers.runs import command, final, sitting, sitting_on_ranks
from tests.trainers.small_data import make_dataset
from trainers.stages.lorahub import SLICES, find_weights, is_time_to_search

BEST = torch.tensor([0.9, -0.4, 0.2])


def network(fusion: str = "lorahub") -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_network(ModelSpec("samora_tiny", 64, 2, fusion=FusionSpec(fusion)))


class Judge:
    """A loss that is lowest at ``BEST``, and what it was asked."""

    def __init__(self, judged: SegmentationNetwork) -> None:
        self.network = judged
        self.asked: list[list[int]] = []
        self.training: set[bool] = set()

    def __call__(self, indices: list[int]) -> Tensor:
        self.asked.append(indices)
        self.training.add(self.network.training)
        weights = [fusion.weights for fusion in hubs(self.network)]
        assert all(torch.equal(one, weights[0]) for one in weights)
        assert not torch.is_grad_enabled()
        return 20 * (weights[0] - BEST).square().sum()


def test_all_blocks_get_the_weights_with_the_lowest_loss() -> None:
    judged = network()
    judge = Judge(judged)
    start = 20 * (torch.full((3,), 1 / 3) - BEST).square().sum()
    find_weights(judged, judge, slices=10, micro_batch=4, seed=3)
    found = {tuple(fusion.weights.tolist()) for fusion in hubs(judged)}
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
    find_weights(judged, judge, slices=640, micro_batch=1000, seed=3)
    assert judge.asked[0] == list(range(0, 640, 10))
    assert len(judge.asked[0]) == SLICES


def test_without_a_preference_the_penalty_draws_the_weights_to_zero() -> None:
    judged = network()
    find_weights(judged, lambda indices: torch.tensor(0.5), slices=4, micro_batch=4, seed=3)
    assert hubs(judged)[0].weights.abs().mean() < 1 / 3


@pytest.mark.parametrize(("epochs", "at"), [(1, 0), (2, 1), (20, 10), (30, 15)])
def test_the_search_comes_in_the_middle(epochs: int, at: int) -> None:
    assert [epoch for epoch in range(epochs) if is_time_to_search(network(), epoch, epochs)] == [at]
    assert not any(is_time_to_search(network("lac"), epoch, epochs) for epoch in range(epochs))


WORDS = ("--recipe", "none", "--set", "fusion=lorahub", "--backbone-weights", "samora_tiny", "--stage", "finetune")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("lorahub"))


def weights(root: Path, name: str) -> Tensor:
    return final(root, f"SAMoraTrainer__2cases__{name}").tensors["image_encoder.blocks.0.fusion.weights"]


@pytest.mark.parametrize("step", [2, 4])
def test_killed_before_or_after_the_search_a_run_ends_the_same(root: Path, step: int) -> None:
    if not (root / "results").is_dir():
        assert sitting(command(root, *WORDS, "--name", "whole")) == 0
    words = command(root, *WORDS, "--name", f"killed{step}")
    assert sitting(words, at=("finetune", step, signal.SIGKILL)) == -signal.SIGKILL
    assert sitting([*words, "-c"]) == 0
    whole, killed = (final(root, f"SAMoraTrainer__2cases__{name}").tensors for name in ("whole", f"killed{step}"))
    assert not torch.allclose(weights(root, "whole"), torch.full((3,), 1 / 3))
    assert all(torch.equal(killed[key], value) for key, value in whole.items())


def test_ranks_find_the_same_weights(root: Path) -> None:
    assert sitting(command(root, *WORDS, "--name", "one")) == 0
    assert sitting_on_ranks(2, command(root, *WORDS, "--name", "two")) == [0, 0]
    torch.testing.assert_close(weights(root, "two"), weights(root, "one"))
