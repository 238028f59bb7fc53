"""Time a linear layer with torch's products and with numpy's, one thread each, in turns.

    python benchmarks/products.py                 the shapes of two slices under ViT-B with three experts
    python benchmarks/products.py --rounds 50

Both have a bias. The ratio is torch's time over numpy's: above 1, ``samora_predict`` is right to choose numpy here.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import torch
from torch import Tensor, nn

from samora_pipeline.inference.products import OpenBlasLinear, openblas_is_faster

SHAPES = {
    "qkv": (392, 768, 2304),
    "projection": (1568, 768, 768),
    "MLP in": (1568, 768, 3072),
    "MLP out": (1568, 3072, 768),
}
"""rows, width in and width out: qkv is run once for 2 slices of 196 tokens, the others for four branches of them"""


def seconds(layer: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Time one call."""
    begun = time.perf_counter()
    layer(x)
    return time.perf_counter() - begun


def main(argv: list[str] | None = None) -> None:
    """Print best and median times, their ratios and the operations per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(f"samora_predict would choose {'numpy' if openblas_is_faster() else 'torch'} here")
    for name, (rows, width_in, width_out) in SHAPES.items():
        torch.manual_seed(0)
        plain, x = nn.Linear(width_in, width_out), torch.randn(rows, width_in)
        layers = {"torch": plain, "numpy": OpenBlasLinear(plain)}
        with torch.inference_mode():
            torch.testing.assert_close(layers["numpy"](x), plain(x), rtol=1e-4, atol=1e-5)
            times: dict[str, list[float]] = {key: [] for key in layers}
            for _ in range(arguments.rounds):
                for key, layer in layers.items():
                    times[key].append(seconds(layer, x))
        operations = 2 * rows * width_in * width_out / 1e9
        best = {key: min(own) for key, own in times.items()}
        median = {key: statistics.median(own) for key, own in times.items()}
        cells = ", ".join(f"{key} {operations / best[key]:.0f} / {operations / median[key]:.0f}" for key in layers)
        ratios = f"{best['torch'] / best['numpy']:.2f} / {median['torch'] / median['numpy']:.2f}"
        print(f"{name:10} GFLOP/s best / median: {cells}; ratio {ratios}")


if __name__ == "__main__":
    main()
