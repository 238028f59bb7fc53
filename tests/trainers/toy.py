"""A training small enough to be run many times, here or in a child that gets killed."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from samora_pipeline import distributed
from samora_pipeline.contracts.checkpoints import save_checkpoint
from samora_pipeline.reproducibility import derived_seed
from trainers.loop.loop import LoopContext, Training, train

SAMPLES = 24
WEIGHTS = "weights.safetensors"


def sample(index: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(derived_seed("toy", epoch, index))
    return torch.randn(6, generator=generator)


def batches(epoch: int) -> list[list[int]]:
    order = torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch)).tolist()
    return [order[start : start + 8] for start in range(0, SAMPLES, 8)]


def load(indices: list[int], epoch: int) -> dict[str, Tensor]:
    return {"x": torch.stack([sample(index, epoch) for index in indices]), "index": torch.tensor(indices)}


def make(epochs: int, *, micro_batch: int | None = None, pause: float = 0.0) -> tuple[Training, nn.Module]:
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 6))
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.1)

    def loss(batch: dict[str, Tensor], epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        time.sleep(pause)
        # Noise from the global generator stands for dropout and masks: it must repeat after a resume.
        errors = (network(batch["x"]) - batch["x"] + 0.1 * torch.randn(6)).square().mean(dim=1)
        total = distributed.sum_over_ranks(torch.stack((errors.sum(), torch.tensor(float(len(errors))))))
        value = total[0] / total[1]
        return value, {"twice": 2 * value}

    training = Training(
        stage="toy",
        parameters=dict(network.named_parameters()),
        optimizer=optimizer,
        learning_rate=lambda step: 0.05 / step,
        batches=batches,
        load=load,
        loss=loss,
        epochs=epochs,
        micro_batch=micro_batch,
    )
    return training, network


def loop_context(folder: Path, digest: str = "d" * 64) -> LoopContext:
    return LoopContext(folder, torch.device("cpu"), 0, digest, "samora_train toy -c")


def run(folder: Path, epochs: int, *, pause: float = 0.0, kill_at: int = 0) -> None:
    """Train in a child process, on its ranks; die by SIGKILL in step ``kill_at`` (0: never); leave the weights."""
    distributed.start(torch.device("cpu"))
    training, network = make(epochs, pause=pause)
    steps = 0

    def counting(batch: dict[str, Tensor], epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        nonlocal steps
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return training.loss(batch, epoch)

    train(dataclasses.replace(training, loss=counting), loop_context(folder))
    if distributed.is_main():
        save_checkpoint(folder / WEIGHTS, network.state_dict(), {})
    distributed.stop()
