"""Time a network's products in both precisions beside the automatic choice, for prediction and for a training step.

    python -m benchmarks.precision                                      samora_tiny at 128 px, seconds
    python -m benchmarks.precision --backbone sam_vit_b --size 224      minutes

Both precisions run by turns in each round, and the ratio is taken within a round, so that other work on the machine
slows both. The bar is that the automatic choice is never slower than the other precision by more than 5 %.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import sys
import time
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.inference.allocation import keep_freed_memory
from samora_pipeline.inference.device import pick_batch, pick_device, prepared
from samora_pipeline.inference.precision import Arithmetic, pick_arithmetic
from samora_pipeline.models.assembly import build_network

BAR = 1.05
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main(arguments: list[str] | None = None) -> int:
    """Print both uses; 1 where the automatic choice misses the bar."""
    wanted = _parser().parse_args(arguments)
    keep_freed_memory()
    device = pick_device(wanted.device)
    verdicts = [_compare(wanted, device, training=training) for training in (False, True)]
    return 0 if all(verdicts) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="samora_tiny")
    parser.add_argument("--size", type=int, default=128, metavar="PX")
    parser.add_argument("--device", help="cpu, cuda (default: cuda where there is one)")
    parser.add_argument("--rounds", type=int, default=5)
    return parser


def _compare(wanted: argparse.Namespace, device: torch.device, *, training: bool) -> bool:
    """Print one use; whether the automatic choice reaches the bar."""
    build = partial(build_network, ModelSpec(wanted.backbone, wanted.size, 2, lora_rank=4))
    images = torch.rand(4 if training else pick_batch(device, wanted.size), 1, wanted.size, wanted.size, device=device)
    begun = time.perf_counter()
    shape = cast(tuple[int, int, int, int], tuple(images.shape))
    chosen = pick_arithmetic(device, "auto", build, shape, training=training)
    probe = time.perf_counter() - begun
    network = build()
    networks = {name: _ready(network, device, dtype, training=training) for name, dtype in TYPES.items()}
    for name, own in networks.items():
        _seconds(own, images, TYPES[name], training=training)  # the first call allocates
    rounds = [
        {name: _seconds(own, images, TYPES[name], training=training) for name, own in networks.items()}
        for _ in range(wanted.rounds)
    ]
    other = next(name for name in TYPES if name != chosen.name)
    ratio = statistics.median(each[chosen.name] / each[other] for each in rounds)
    use = "training step" if training else "prediction"
    times = ", ".join(
        f"{name} {1000 * statistics.median(each[name] for each in rounds) / len(images):.1f}" for name in TYPES
    )
    title = f"{use}, {wanted.backbone} at {wanted.size} px, {len(images)} slices, load {os.getloadavg()[0]:.1f}"
    print(f"{title}: ms/slice {times}")
    print(f"  automatic {chosen.name} in {probe:.2f} s ({chosen.why})")
    print(f"  {chosen.name} takes {ratio:.2f} of the time of {other}  bar at most {BAR}: {_verdict(ratio)}", flush=True)
    return ratio <= BAR


def _verdict(ratio: float) -> str:
    return "reached" if ratio <= BAR else "missed"


def _ready(network: nn.Module, device: torch.device, dtype: torch.dtype, *, training: bool) -> nn.Module:
    own = copy.deepcopy(network)
    return own.to(device).train() if training else prepared(own, device, dtype)


def _seconds(network: nn.Module, images: Tensor, dtype: torch.dtype, *, training: bool) -> float:
    """Seconds of one call, forward alone or with all gradients."""
    begun = time.perf_counter()
    with torch.set_grad_enabled(training), Arithmetic(dtype).autocast(images.device):
        output = network(images)
    if training:
        network.zero_grad(set_to_none=True)
        output.float().square().mean().backward()
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
