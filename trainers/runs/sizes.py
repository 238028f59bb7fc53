"""The size of a network's input: typed, kept from an earlier start, or chosen from the data with its reason."""

import math
import statistics
from collections.abc import Iterable, Mapping

from samora_pipeline.contracts.model_spec import Volume
from samora_pipeline.contracts.run import Choice
from samora_pipeline.contracts.stored_case import StoredCase
from trainers.methods import VolumeNetworkSettings
from trainers.pool.datasets import PreparedDataset
from trainers.runs.automatic import INPUT_SIZE, choose_input_size
from trainers.runs.choices import MODEL, Method

VOLUME = f"{MODEL}.volume"
# Ours: what a 3-D U-Net learns from in seconds per step on one core; a side can be halved three times.
_VOXELS, _SIDE_STEP = 400_000, 8


def choose_size(method: Method, dataset: PreparedDataset, earlier: Mapping[str, Choice]) -> dict[str, Choice]:
    """The side of the input, or the grid of whole volumes, where it is not typed; one of an ``earlier`` start stays."""
    if isinstance(method.model, VolumeNetworkSettings):
        if method.model.volume is not None:
            return {}
        own = [case for case in dataset.cases.values() if case.subset == "train"]
        return {VOLUME: earlier.get(VOLUME) or choose_volume(own or dataset.cases.values())}
    if method.model.input_size is not None:
        return {}
    sides = [max(case.shape[1:]) for case in dataset.cases.values()]
    return {INPUT_SIZE: earlier.get(INPUT_SIZE) or choose_input_size(dataset.plans, sides, small=method.small)}


def size_of(method: Method, chosen: Mapping[str, Choice]) -> tuple[int, Volume | None]:
    """The side of the network's input, the longest of a whole volume, and that volume."""
    if not isinstance(method.model, VolumeNetworkSettings):
        return method.model.input_size or int(chosen[INPUT_SIZE].value), None
    planes, rows, columns = method.model.volume or chosen[VOLUME].value
    return max(planes, rows, columns), (planes, rows, columns)


def choose_volume(cases: Iterable[StoredCase]) -> Choice:
    """The grid of whole volumes, (planes, rows, columns): cubes in the median scan, none finer than its voxels.

    ``cases``: those that are learned from. An axis with few voxels keeps them, and the others share what is left.
    """
    known = list(cases)
    counts = [statistics.median(case.shape[axis] for case in known) for axis in range(3)]
    extents = [statistics.median(case.shape[axis] * case.geometry.spacing[axis] for case in known) for axis in range(3)]
    kept: dict[int, int] = {}
    while True:
        left = [axis for axis in range(3) if axis not in kept]
        voxels = _VOXELS / math.prod(kept.values())
        edge = (math.prod(extents[axis] for axis in left) / voxels) ** (1 / len(left)) if left else 1.0
        cubes = {axis: extents[axis] / edge for axis in left}
        few = [axis for axis, side in cubes.items() if not _SIDE_STEP <= side <= counts[axis]]
        if not few:
            break
        kept |= {axis: _SIDE_STEP * math.ceil(min(counts[axis], cubes[axis]) / _SIDE_STEP) for axis in few}
    volume = [kept[axis] if axis in kept else _SIDE_STEP * round(cubes[axis] / _SIDE_STEP) for axis in range(3)]
    scan = f"{' x '.join(f'{n:g}' for n in counts)} voxels, {' x '.join(f'{mm:.0f}' for mm in extents)} mm"
    return Choice(
        volume,
        f"the median scan ({scan}) in about {_VOXELS:,} cubes, none finer than its voxels, in steps of {_SIDE_STEP}",
    )
