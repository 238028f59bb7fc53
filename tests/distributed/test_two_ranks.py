"""Two gloo ranks against one process: the losses and the summed gradients are those of the whole batch."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from samora_pipeline.distributed import own_share, sum_gradients
from samora_pipeline.objectives.contrastive import nt_xent
from samora_pipeline.objectives.features import masked_reconstruction, mean_squared_error
from samora_pipeline.objectives.segmentation import segmentation_loss

WIDTH = 6
Result = tuple[float, list[float]]


def samples(name: str, count: int, *shape: int) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(len(name)))


def contrastive(weight: Tensor, rows: list[int]) -> Tensor:
    inputs = samples("inputs", 7, 2, WIDTH)[rows]
    first, second = (inputs[:, view] @ weight for view in (0, 1))
    return nt_xent(first, second, temperature=0.2).loss


def segmentation(weight: Tensor, rows: list[int]) -> Tensor:
    logits = torch.einsum("bchw,ck->bkhw", samples("slices", 7, WIDTH, 4, 4)[rows], weight)
    target = (samples("target", 7, 4, 4)[rows] * 2).round().long().clamp(-1, 3)
    return segmentation_loss(logits, target, cross_entropy=0.2, dice=0.8).loss


def regions(weight: Tensor, rows: list[int]) -> Tensor:
    logits = torch.einsum("bchw,ck->bkhw", samples("slices", 7, WIDTH, 4, 4)[rows], weight[:, :2])
    target = (samples("target", 7, 4, 4)[rows] * 2).round().long().clamp(-1, 2)
    table = torch.tensor([[False, True, True], [False, False, True]])
    return segmentation_loss(logits, target, cross_entropy=0.5, dice=0.5, regions=table).loss


def masked(weight: Tensor, rows: list[int]) -> Tensor:
    prediction = samples("tokens", 7, 3, 3, WIDTH)[rows] @ weight[:, :4]
    mask = samples("masks", 7, 3, 3)[rows] > 0  # a different number of patches on each rank
    return masked_reconstruction(prediction, samples("pictures", 7, 1, 6, 6)[rows], mask)


def denoising(weight: Tensor, rows: list[int]) -> Tensor:
    return mean_squared_error(samples("noisy", 7, 5, WIDTH)[rows] @ weight, samples("clean", 7, 5, WIDTH)[rows])


LOSSES: list[Callable[[Tensor, list[int]], Tensor]] = [contrastive, segmentation, regions, masked, denoising]
# Uneven shares, and a last batch so small that one rank has nothing.
BATCHES: list[list[int]] = [[0, 1, 2, 3, 4, 5, 6], [3, 1], [5]]


def evaluate(share: Callable[[list[int]], list[int]]) -> list[Result]:
    results = []
    for loss_of in LOSSES:
        for batch in BATCHES:
            weight = torch.nn.Parameter(samples("weight", WIDTH, WIDTH))
            loss = loss_of(weight, share(batch))
            loss.backward()
            sum_gradients([weight])
            assert weight.grad is not None
            results.append((float(loss.detach()), weight.grad.flatten().tolist()))
    return results


def on_rank(rank: int, port: int, results: Queue[tuple[int, list[Result]]]) -> None:
    # The OpenMP pool of the parent does not survive a fork, so no parallel region may start here.
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        results.put((rank, evaluate(own_share)))
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks() -> Sequence[list[Result]]:
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results: Queue[tuple[int, list[Result]]] = context.Queue()
    processes = [context.Process(target=on_rank, args=(rank, port, results), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=30)
    return [found[0], found[1]]


@pytest.fixture(scope="module")
def one_process() -> list[Result]:
    return evaluate(lambda batch: batch)


CASES = [(loss.__name__, len(batch)) for loss in LOSSES for batch in BATCHES]


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{name}-{size}" for name, size in CASES])
def test_two_ranks_equal_one_process(case: int, two_ranks: Sequence[list[Result]], one_process: list[Result]) -> None:
    loss, gradient = one_process[case]
    assert np.abs(gradient).max() > 1e-3 or CASES[case] == ("contrastive", 1)  # one image has no negatives
    for results in two_ranks:
        assert results[case][0] == pytest.approx(loss, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(results[case][1], gradient, rtol=1e-4, atol=1e-6)
