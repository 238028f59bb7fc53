"""Two gloo ranks against one process for the pre-training of teachers and for distillation, batch norm included."""

from __future__ import annotations

import multiprocessing
import socket
from collections.abc import Callable
from multiprocessing.queues import Queue
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from samora_pipeline.distributed import own_share, sum_gradients
from samora_pipeline.models.pretraining_heads import DistillationHead
from samora_pipeline.models.teachers.mae import MaeDesign
from samora_pipeline.models.teachers.simclr import ResNetGeometry, SimclrDesign
from samora_pipeline.objectives.contrastive import nt_xent
from samora_pipeline.objectives.features import StatisticsFit, distillation, masked_reconstruction, scaled_target

SIZE = 32
BATCH = list(range(5))
Found = dict[str, tuple[float, dict[str, Any], dict[str, Any]]]
"""by task: the loss, gradients and running statistics as arrays"""


def samples(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def shaken(network: nn.Module) -> nn.Module:
    """Away from the start, where the last norm of each block is zero and hides what is in front of it."""
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.add_(samples(*parameter.shape, seed=number) * 0.1)
    return network


def contrastive(rows: list[int], *, checkpointing: bool = False) -> tuple[Tensor, nn.Module]:
    torch.manual_seed(0)
    teacher = SimclrDesign(ResNetGeometry(filters=8, depths=(1, 2, 1, 1))).build(SIZE)
    shaken(teacher)
    teacher.encoder.checkpointing = checkpointing
    views = samples(len(BATCH), 2, 1, SIZE, SIZE)[rows]
    first, second = teacher.embed(torch.cat((views[:, 0], views[:, 1]))).chunk(2)
    return nt_xent(first, second, temperature=0.2).loss, teacher


def repeated(rows: list[int]) -> tuple[Tensor, nn.Module]:
    return contrastive(rows, checkpointing=True)


def masked(rows: list[int]) -> tuple[Tensor, nn.Module]:
    torch.manual_seed(0)
    teacher = MaeDesign(32, 2, 4, 16, 1, 2, patch_size=8).build(SIZE)
    hidden = (samples(len(BATCH), 16).argsort(dim=1).argsort(dim=1) < 12).view(-1, 4, 4)[rows]
    images = teacher.prepare(samples(len(BATCH), 1, SIZE, SIZE, seed=1)[rows])
    return masked_reconstruction(teacher.decode(teacher.encode(images, hidden), hidden), images, hidden), teacher


def distilled(rows: list[int]) -> tuple[Tensor, nn.Module]:
    torch.manual_seed(0)
    head = DistillationHead(12, 7, grid=0)
    features = samples(len(BATCH), 7, seed=2)[rows]
    fit = StatisticsFit(7)
    fit.add(features)
    target = scaled_target(features, "channel", fit.result(torch.device("cpu")))
    return distillation(head(samples(len(BATCH), 4, 4, 12, seed=3)[rows]), target).loss, head


TASKS: list[Callable[[list[int]], tuple[Tensor, nn.Module]]] = [contrastive, repeated, masked, distilled]


def evaluate(rows: list[int]) -> Found:
    found: Found = {}
    for task in TASKS:
        loss, network = task(rows)
        loss.backward()
        trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
        sum_gradients(trained.values())
        gradients = {name: p.grad.numpy() for name, p in trained.items() if p.grad is not None}
        statistics = {name: buffer.numpy() for name, buffer in network.named_buffers()}
        found[task.__name__] = (float(loss.detach()), gradients, statistics)
    return found


def on_rank(rank: int, port: int, results: Queue[tuple[int, Found]]) -> None:
    # The OpenMP pool of the parent does not survive a fork, so no parallel region may start here.
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        results.put((rank, evaluate(own_share(BATCH))))
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(one_process: Found) -> list[Found]:
    # After the single process: what torch imports at its first checkpoint is then there for both ranks.
    context = multiprocessing.get_context("fork")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    results: Queue[tuple[int, Found]] = context.Queue()
    processes = [context.Process(target=on_rank, args=(rank, port, results), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = dict(results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=30)
    return [found[0], found[1]]


@pytest.fixture(scope="module")
def one_process() -> Found:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = evaluate(BATCH)
    torch.set_num_threads(threads)
    return found


@pytest.mark.parametrize("task", [task.__name__ for task in TASKS])
def test_two_ranks_equal_one_process(task: str, two_ranks: list[Found], one_process: Found) -> None:
    loss, gradients, statistics = one_process[task]
    assert gradients
    for found in two_ranks:
        assert found[task][0] == pytest.approx(loss, rel=1e-5)
        assert found[task][1].keys() == gradients.keys()
        largest = max(float(torch.tensor(gradient).abs().max()) for gradient in gradients.values())
        for name, gradient in gradients.items():
            difference = torch.tensor(found[task][1][name]) - torch.tensor(gradient)
            assert float(difference.abs().max()) < 1e-4 * largest, name
        for name, values in statistics.items():
            torch.testing.assert_close(torch.tensor(found[task][2][name]), torch.tensor(values), msg=name)
