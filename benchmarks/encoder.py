"""Time SAM's image encoder with three experts against plain SAM and against four separate passes, in one run.

    python -m benchmarks.encoder --backbone samora_tiny --sizes 128     seconds
    python -m benchmarks.encoder --sizes 224 --repeats 2                a minute
    python -m benchmarks.encoder                                        224 and 512 px, in each precision of the device

Four variants share one set of random weights: ``base`` (SAM alone), ``naive`` (in every block the base and each expert
by itself, qkv included, then HL-Attn), and our ExpertBlock in both scopes, ``block`` (the same function as ``naive``)
and ``attention``. Their outputs are compared with slow restatements first. Repeats are interleaved, and each round
measures the peak of the machine too, as a large matrix product of the same type on the same threads; ratios and
shares are taken within a round, so that a load that comes and goes hits both sides. Printed are medians of the rounds.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch

from benchmarks.encoder_variants import VARIANTS, build_encoder, check, count_gflop, run
from samora_pipeline.inference.allocation import keep_freed_memory
from samora_pipeline.inference.device import pick_batch, pick_device, prepared
from samora_pipeline.inference.precision import native_bf16
from samora_pipeline.models.backbones.backbone import Encoder

PEAK_SIDE = {"cpu": 2048, "cuda": 8192}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
TOLERANCE = {"fp32": 1e-5, "bf16": 5e-2}
"""largest difference relative to the largest output: rounding of single precision, and of bf16 through twelve blocks"""


@dataclass(frozen=True)
class Timing:
    """One variant: medians over the rounds. ``peak_share`` of the measured peak; memory in MiB above what was there."""

    seconds_per_slice: float
    gflop_per_slice: float
    peak_share: float
    memory_mib: float


@dataclass(frozen=True)
class Result:
    """One size and type. ``differences`` are relative, of our two scopes from their restatements."""

    device: str
    dtype: str
    size: int
    batch: int
    rounds: int
    threads: int
    load: float
    peak_gflops: float
    variants: dict[str, Timing]
    differences: dict[str, float]
    naive_over_block: tuple[float, float, float]
    attention_over_base: tuple[float, float, float]


def seconds(call: Callable[[], object], device: torch.device, clock: Callable[[], float]) -> float:
    """Seconds of one call by a clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begun = clock()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - begun


def peak_gflops(dtype: torch.dtype, device: torch.device, side: int, clock: Callable[[], float]) -> float:
    """The best of three large matrix products, in GFLOP per second."""
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = min(seconds(lambda: left @ right, device, clock) for _ in range(3))
    return 2 * side**3 / best / 1e9


class Memory:
    """Peak memory in MiB above what was in use before: of the process on Linux, of the allocator on CUDA."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        """Begin anew."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device) / 2**20
            return
        # Without this, what was freed before still counts as in use.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = self._status("VmRSS")

    def peak(self) -> float:
        """MiB since ``reset``."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20 - self._before
        return self._status("VmHWM") - self._before

    def _status(self, name: str) -> float:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) / 1024


def measure(
    backbone: str,
    size: int,
    dtype: str,
    device: torch.device,
    batch: int,
    rounds: int,
    seed: int,
    clock: Callable[[], float],
) -> Result:
    """Time all variants at one size in one type.

    Raises:
        SystemExit: when our blocks and their restatements disagree.
    """
    encoder = cast(Encoder, prepared(build_encoder(backbone, size, seed), device, DTYPES[dtype]))
    images = torch.rand(batch, 3, size, size, device=device)
    differences = check(encoder, images[:1])
    if max(differences.values()) > TOLERANCE[dtype]:
        raise SystemExit(f"outputs differ by {differences}, more than {TOLERANCE[dtype]:g}: nothing was timed")
    gflop = {name: count_gflop(backbone, size, name) for name in VARIANTS}
    memory = Memory(device)
    peaks: list[float] = []
    times: dict[str, list[float]] = {name: [] for name in VARIANTS}
    used: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        peaks.append(peak_gflops(DTYPES[dtype], device, PEAK_SIDE[device.type], clock))
        for name in VARIANTS:
            memory.reset()
            times[name].append(seconds(lambda name=name: run(encoder, name, images), device, clock) / batch)  # type: ignore[misc]
            used[name].append(memory.peak())
    return Result(
        str(device),
        dtype,
        size,
        batch,
        rounds,
        torch.get_num_threads(),
        os.getloadavg()[0],
        statistics.median(peaks),
        {
            name: Timing(
                statistics.median(times[name]),
                gflop[name],
                statistics.median(gflop[name] / one / peak for one, peak in zip(times[name], peaks, strict=True)),
                statistics.median(used[name]),
            )
            for name in VARIANTS
        },
        differences,
        _ratio(times["naive"], times["block"]),
        _ratio(times["attention"], times["base"]),
    )


def _ratio(above: list[float], below: list[float]) -> tuple[float, float, float]:
    """Median, smallest and largest ratio within a round."""
    ratios = [one / other for one, other in zip(above, below, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def report(result: Result) -> list[str]:
    """The lines that are printed for one result, with the bars where they apply: on a CPU at 224 px."""
    lines = [
        f"{result.device} {result.dtype} {result.size} px, batch {result.batch}, {result.threads} threads, "
        f"{result.rounds} rounds, load {result.load:.1f}, peak {result.peak_gflops:.0f} GFLOP/s",
        "  variant     s/slice  GFLOP/slice  of peak  memory MiB",
        *(
            f"  {name:<10}{one.seconds_per_slice:>9.4f}{one.gflop_per_slice:>13.1f}{one.peak_share:>9.0%}"
            f"{one.memory_mib:>12.0f}"
            for name, one in result.variants.items()
        ),
        f"  outputs differ by {max(result.differences.values()):.1e} of the largest",
    ]
    barred = result.device == "cpu" and result.size == 224
    faster = {"fp32": 1.05, "bf16": 1.2}[result.dtype]
    lines.append(_ratio_line("naive / block", result.naive_over_block))
    lines.append(_ratio_line("attention / base", result.attention_over_base))
    if barred:
        lines[-2] += f"  bar at least {faster:g}: {_verdict(result.naive_over_block[0] >= faster)}"
        lines[-1] += f"  bar at most 2: {_verdict(result.attention_over_base[0] <= 2.0)}"
    if barred and result.dtype == "bf16":
        share = result.variants["block"].peak_share
        lines.append(f"  block, share of peak {share:.0%}  bar at least 60%: {_verdict(share >= 0.6)}")
    return lines


def _ratio_line(name: str, ratio: tuple[float, float, float]) -> str:
    median, low, high = ratio
    return f"  {name} {median:.2f} ({low:.2f} to {high:.2f})"


def _verdict(reached: bool) -> str:
    return "reached" if reached else "missed"


def main(argv: list[str] | None = None) -> None:
    """Measure every size and type and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="sam_vit_b")
    parser.add_argument("--sizes", type=int, nargs="+", default=(224, 512), metavar="PX")
    parser.add_argument(
        "--dtypes", nargs="+", choices=tuple(DTYPES), help="default: both; bf16 only where it is native"
    )
    parser.add_argument("--device", help="cpu, cuda (default: cuda where there is one)")
    parser.add_argument("--batch", type=int, help="slices per call (default: what samora_predict takes)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds (default 5)")
    parser.add_argument(
        "--busy", action="store_true", help="one thread, and seconds on the processor: for a machine with other work"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args(argv)
    keep_freed_memory()
    device = pick_device(arguments.device)
    clock = time.process_time if arguments.busy else time.perf_counter
    if arguments.busy:
        torch.set_num_threads(1)
    native = native_bf16(device)
    print(f"native bf16: {native or 'no'}")
    dtypes = arguments.dtypes or list(DTYPES)
    if not native and "bf16" in dtypes:
        # Emulated, a single product of the peak would take minutes, and the figures would say nothing.
        print("bf16 is not measured")
        dtypes = [dtype for dtype in dtypes if dtype != "bf16"]
    results = []
    for size in arguments.sizes:
        for dtype in dtypes:
            batch = arguments.batch or pick_batch(device, size)
            result = measure(arguments.backbone, size, dtype, device, batch, arguments.repeats, arguments.seed, clock)
            results.append(result)
            print("\n".join(report(result)), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
