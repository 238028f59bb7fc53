"""Time Dice and HD95 of eight organs against medpy, in one run on the same masks.

    python benchmarks/metrics.py --shape 128 128 40     quick
    python benchmarks/metrics.py                        512 x 512 x 150, some minutes (medpy)
    python benchmarks/metrics.py --skip-medpy           the same volumes, this package alone

Prints absolute times, the ratio, and the largest difference between the two answers; then the worst case for a search
of nearest neighbours, false positives scattered over the whole volume. One thread each; on a busy machine trust the
seconds on the processor.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from samora_pipeline.evaluation.metrics import measure

ORGANS = tuple((value,) for value in range(1, 9))
SPACING = (0.78, 0.78, 3.0)
Labels = npt.NDArray[np.uint8]
Rows = list[tuple[float, float]]


def bumpy_organs(shape: tuple[int, int, int], seed: int) -> tuple[Labels, Labels]:
    """Return a reference with eight bumpy ellipsoids and a prediction whose surfaces are off, with a few islands."""
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in shape), indexing="ij", sparse=True)
    reference, prediction = (np.zeros(shape, dtype=np.uint8) for _ in range(2))
    for value in range(1, 9):
        corner = [(-0.5, 0.5)[(value - 1) >> bit & 1] for bit in range(3)]
        centre = np.array(corner) + rng.uniform(-0.1, 0.1, 3)
        radius = rng.uniform(0.15, 0.3, 3)
        offsets = [axis - middle for axis, middle in zip(axes, centre, strict=True)]
        waves = sum(np.sin(rng.uniform(10, 25) * axis) for axis in axes)
        level = sum((offset / size) ** 2 for offset, size in zip(offsets, radius, strict=True)) + 0.08 * waves
        reference[level < 1] = value
        ripple = sum(np.sin(rng.uniform(30, 60) * axis) for axis in axes)
        prediction[level + 0.05 * ripple < 1] = value
    for value in rng.integers(1, 9, 6):
        start = [int(rng.integers(0, size - 3)) for size in shape]
        prediction[start[0] : start[0] + 3, start[1] : start[1] + 3, start[2] : start[2] + 2] = value
    return reference, prediction


def scattered(prediction: Labels, seed: int, share: float = 0.002) -> Labels:
    """The prediction with a share of all voxels turned into false positives of random organs."""
    rng = np.random.default_rng(seed)
    noisy = prediction.copy()
    places = rng.integers(0, noisy.size, int(share * noisy.size))
    noisy.ravel()[places] = rng.integers(1, 9, places.size)
    return noisy


def ours(reference: Labels, prediction: Labels) -> Rows:
    """Dice and HD95 (mm) of each organ with this package."""
    rows = []
    for organ in measure(reference, prediction, ORGANS):
        if organ.overlap.dice is None or organ.surfaces is None:
            raise SystemExit("the synthetic volume lost an organ; choose a larger --shape")
        rows.append((organ.overlap.dice, organ.surfaces.distances(SPACING).hd95()))
    return rows


def medpy(reference: Labels, prediction: Labels) -> Rows:
    """Dice and HD95 (mm) of each organ with medpy, one call per organ, as the SAMed and H-SAM test loops do."""
    from medpy.metric import binary

    return [
        (
            float(binary.dc(prediction == value, reference == value)),
            float(binary.hd95(prediction == value, reference == value, voxelspacing=SPACING)),
        )
        for (value,) in ORGANS
    ]


def timed(score: Callable[[Labels, Labels], Rows], *volumes: Labels) -> tuple[Rows, float, float]:
    """The scores, and the seconds they took by the clock and on the processor."""
    wall, cpu = time.perf_counter(), time.process_time()
    rows = score(*volumes)
    return rows, time.perf_counter() - wall, time.process_time() - cpu


def main() -> None:
    """Run both and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(512, 512, 150), metavar=("X", "Y", "Z"))
    parser.add_argument("--repeats", type=int, default=3, help="runs of ours, the best is reported (default 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-medpy", action="store_true", help="measure this package alone")
    arguments = parser.parse_args()
    reference, prediction = bumpy_organs(tuple(arguments.shape), arguments.seed)

    runs = [timed(ours, reference, prediction) for _ in range(arguments.repeats)]
    own, wall, cpu = min(runs, key=lambda one: one[2])
    shape = " x ".join(str(size) for size in arguments.shape)
    print(f"8 organs, {shape}, spacing {SPACING} mm, {np.count_nonzero(reference) / reference.size:.1%} foreground")
    print(f"samora_pipeline  {wall:9.3f} s wall  {cpu:9.3f} s CPU   (best of {arguments.repeats})")
    if not arguments.skip_medpy:
        rival, rival_wall, rival_cpu = timed(medpy, reference, prediction)
        print(f"medpy            {rival_wall:9.3f} s wall  {rival_cpu:9.3f} s CPU   (one run)")
        print(f"ratio            {rival_wall / wall:9.1f} x       {rival_cpu / cpu:9.1f} x")
        print(f"largest difference of Dice and HD95: {np.abs(np.array(own) - np.array(rival)).max():.1e}")
    _, wall, cpu = timed(ours, reference, scattered(prediction, arguments.seed))
    print(f"scattered        {wall:9.3f} s wall  {cpu:9.3f} s CPU   (0.2 % scattered false positives, one run)")


if __name__ == "__main__":
    main()
