"""What one optimizer step of each stage costs a GPU at full size, counted on a pretended device.

    python -m benchmarks.step_costs                                     all rows, ten minutes
    python -m benchmarks.step_costs --rows finetune "finetune SAMora2" --lines 10 --launches
    python -m benchmarks.step_costs --list

Every row is the real stage at its full size and batch: the project's own loop takes two steps and the second is
counted, from the end of the first update to the end of the second, so that the optimizer's state is there and not
being made. No row is scaled from a smaller one. No numbers are computed (meta tensors); what depends on them is made
up: a number that the host reads is 1, a boolean choice takes all.

Columns: the most bytes held (GiB; a real device needs 10 to 30 % more for workspaces and fragments); FLOPs of products
and attention (TFLOP); bytes that the operations read and write, each by itself and without caches (GB); launches by the
rule in ``tests/pretend_cuda/launches.py``; waits of the host for the device; seconds of this CPU for the row. Below:
the lines of the project that wait, with the library's line that they lead to.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter

import torch

from tests.pretend_cuda.full_size import Cost, pretended
from tests.pretend_cuda.insides import STAGES, cost_of_step

TITLES = {
    "teacher_image": "teacher_image, 8 x 64 normalised",
    "teacher_image checkpointing": "teacher_image, 8 x 64 normalised, checkpointed",
    "teacher_image uncut": "teacher_image, 512 normalised",
    "teacher_image uncut checkpointing": "teacher_image, 512 normalised, checkpointed",
    "teacher_patch": "teacher_patch, 8 x 64",
    "expert_image": "expert_image (full), 8 x 64",
    "expert_patch": "expert_patch (full), 8 x 64",
    "expert_image scratch": "expert_image (scratch), 512 uncut",
    "expert_patch scratch": "expert_patch (scratch), 8 x 64",
    "expert_pixel": "expert_pixel, 8 x 64",
    "finetune": "finetune SAMora, 2 x 16",
    "finetune 1 x 32": "finetune SAMora, 1 x 32",
    "finetune HSAMora": "finetune HSAMora, 2 x 16",
    "finetune SAMora2": "finetune SAMora2, 2 x 16",
    "finetune 512 px": "finetune SAMora, 512 px, 16 x 2",
    "finetune ViT-L": "finetune SAMora, ViT-L, 2 x 16",
    "finetune ViT-H": "finetune SAMora, ViT-H, 2 x 16",
}
COLUMNS = ("stage (defaults, ViT-B, 224 px)", "peak GiB", "TFLOP", "moved GB", "launches", "host waits", "seconds here")


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    wanted = _parser().parse_args(arguments)
    if wanted.list:
        print("\n".join(f"{name:30}{title}" for name, title in TITLES.items()))
        return 0
    print(f"Second step at full size, shapes alone; torch {torch.__version__}, launches as of CUDA {wanted.cuda}\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    costs = {}
    for name in wanted.rows:
        costs[name], seconds = _cost(name, wanted.cuda)
        print(_row(TITLES[name], costs[name], seconds), flush=True)
    for name, cost in costs.items():
        if wanted.lines:
            _print_most(f"waits, {TITLES[name]}", cost.waits, wanted.lines)
        if wanted.launches:
            _print_most(f"launches, {TITLES[name]}", cost.launches, wanted.lines)
            _print_most(f"operations, {TITLES[name]}", cost.operations, wanted.lines)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="NAME", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--lines", type=int, default=10, metavar="N", help="lines that wait, per row (10; 0: none)")
    parser.add_argument("--launches", action="store_true", help="the lines and operations that launch most, too")
    parser.add_argument("--cuda", type=int, default=13, metavar="MAJOR", help="CUDA that torch is built with (13)")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    return parser


def _cost(name: str, cuda: int) -> tuple[Cost, float]:
    begun = time.monotonic()
    with pretended(numbers=False, cuda=cuda) as device:
        cost = cost_of_step(device, STAGES[name]())
    gc.collect()
    return cost, time.monotonic() - begun


def _row(title: str, cost: Cost, seconds: float) -> str:
    tflop = f"{cost.tflop:.1f}" if cost.tflop < 10 else f"{cost.tflop:.0f}"
    launches, waits = sum(cost.launches.values()), sum(cost.waits.values())
    numbers = (f"{cost.peak_gib:.1f}", tflop, f"{cost.moved_gb:,.0f}", f"{launches:,}", f"{waits:,}", f"{seconds:.0f}")
    return f"| {' | '.join((title, *numbers))} |"


def _print_most(title: str, counted: Counter[str], lines: int) -> None:
    print(f"\n{title}: {sum(counted.values()):,} on {len(counted)} lines")
    for text, number in counted.most_common(lines):
        print(f"  {number:6,}  {text}")


if __name__ == "__main__":
    torch.set_num_threads(2)
    sys.exit(main())
