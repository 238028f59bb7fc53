"""How each stage is made to fit devices of several sizes, counted on a pretended device.

    python -m benchmarks.memory                         every stage on 8, 12, 24, 48 and 80 GB; ten minutes
    python -m benchmarks.memory --steps                 and two steps of every choice; half an hour
    python -m benchmarks.memory --gib 8 --rows teacher_image

Every row is a stage of SAMoraTrainer at its full size and batch (ViT-B, 224 px). On a device of the given size it
measures two small steps and chooses, as at the start of every training. With ``--steps`` it takes two steps of two
parts there, on a device that refuses what it does not have. No numbers are computed (meta tensors).

Cells: slices at a time of those that would be taken at most, and whether activations are computed again; GiB at the
peak as predicted, weights, gradients and moments included; in brackets GiB that the second step held. A real
device needs 10 to 30 % more for workspaces and fragments, for which a fifth of the free memory is left.
"""

from __future__ import annotations

import argparse
import gc
import sys

import torch

from tests.pretend_cuda.full_size import pretended
from tests.pretend_cuda.insides import DEFAULT, fitted_stage, peak_of

SIZES = (8, 12, 24, 48, 80)


def main(arguments: list[str] | None = None) -> int:
    """Print the table."""
    wanted = _parser().parse_args(arguments)
    print(f"| stage | {' | '.join(f'{size} GB' for size in wanted.gib)} |")
    print("|---" * (1 + len(wanted.gib)) + "|")
    for name in wanted.rows:
        peaks: dict[tuple[int, bool], float] = {}
        print(f"| {name} |", end="", flush=True)
        for size in wanted.gib:
            print(f" {_cell(name, size, peaks if wanted.steps else None)} |", end="", flush=True)
        print()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="NAME", default=list(DEFAULT), choices=list(DEFAULT))
    parser.add_argument("--gib", nargs="+", type=int, default=list(SIZES), metavar="N", help="sizes of the device")
    parser.add_argument("--steps", action="store_true", help="also take steps, once for every choice")
    return parser


def _cell(name: str, gib: int, peaks: dict[tuple[int, bool], float] | None) -> str:
    """One choice; ``peaks`` are those that were measured before, None for none at all."""
    with pretended(numbers=False, total_gib=gib) as device:
        device.count_lines = False
        found = fitted_stage(device, name)
        chosen = found.fit
        choice = (chosen.micro_batch, chosen.recomputes)
        if peaks is not None and choice not in peaks:
            peaks[choice] = peak_of(device, found)
    predicted = f"{found.predicted:.1f}"
    del found
    gc.collect()
    cut = f"{chosen.micro_batch} of {chosen.largest}" if chosen.micro_batch < chosen.largest else f"{chosen.largest}"
    again = ", recomputed" if chosen.recomputes else ""
    return f"{cut}{again}: {predicted}{f' ({peaks[choice]:.1f})' if peaks is not None else ''}"


if __name__ == "__main__":
    torch.set_num_threads(2)
    sys.exit(main())
