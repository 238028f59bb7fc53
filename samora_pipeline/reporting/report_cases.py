"""A scored case as slices: what the network saw, the reference, and the predictions of one or two runs.

Shapes: S slices; C channels; H, W rows and columns of the source grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.dataset import RawCase
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.intensity import measure, normalize
from samora_pipeline.imaging.preprocessor import labels_to_slices, require_same_grid, to_slices
from samora_pipeline.reporting.pictures import foreground_values

Labels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CaseStack:
    """``images`` [S,C,H,W] in [0,1] as the plan says; ``reference`` and each of ``predictions`` [S,H,W] label values.

    ``spacing`` in mm between slices, rows and columns.
    """

    name: str
    images: npt.NDArray[np.float32]
    reference: Labels
    predictions: tuple[Labels, ...]
    spacing: tuple[float, float, float]

    @property
    def aspect(self) -> float:
        """The height of a pixel over its width."""
        return self.spacing[1] / self.spacing[2]


def read_case(case: RawCase, predictions: Sequence[Path], plans: Plans) -> CaseStack:
    """Read a scored case from its files.

    Raises:
        DataError: a file is missing, damaged or on another grid.
    """
    volumes = tuple(read_volume(path) for path in case.channels)
    slices, geometry = to_slices(volumes, plans.slice_axis.value)
    stacks = []
    for path in (case.label, *predictions):
        if path is None:
            raise ValueError(f"{case.name} has no reference")
        volume = read_volume(path)
        require_same_grid(volumes[0], volume)
        stacks.append(labels_to_slices(volume, geometry))
    stats = [measure(slices[:, channel]) for channel in range(slices.shape[1])]
    images = normalize(slices, plans.intensity.value, stats)
    return CaseStack(case.name, images, stacks[0], tuple(stacks[1:]), geometry.spacing)


def foreground_slices(stack: CaseStack, labels: LabelScheme) -> list[int]:
    """The slices with foreground in the reference or in a prediction, in order."""
    values = foreground_values(labels)
    held = np.zeros(len(stack.reference), dtype=np.bool_)
    for labelled in (stack.reference, *stack.predictions):
        held |= np.isin(labelled, values).any(axis=(1, 2))
    return [int(index) for index in np.flatnonzero(held)]


def spread(indices: Sequence[int], count: int, kept: int) -> list[int]:
    """At most ``count`` of ``indices``, evenly over them and with ``kept`` among them, in order."""
    if len(indices) <= count:
        return sorted({*indices, kept})
    places = np.linspace(0, len(indices) - 1, count).round().astype(int)
    chosen = [indices[place] for place in places]
    nearest = min(range(count), key=lambda place: abs(chosen[place] - kept))
    chosen[nearest] = kept
    return sorted(set(chosen))


def slice_dice(reference: Labels, prediction: Labels, labels: LabelScheme) -> dict[str, float | None]:
    """Dice per organ over the given pixels; None where the organ is in neither, ignored pixels left out."""
    counted = reference != labels.ignore if labels.ignore is not None else np.ones(reference.shape, dtype=np.bool_)
    scores: dict[str, float | None] = {}
    for name, values in labels.foreground:
        truth, guess = np.isin(reference, values) & counted, np.isin(prediction, values) & counted
        total = int(truth.sum()) + int(guess.sum())
        scores[name] = 2 * int((truth & guess).sum()) / total if total else None
    return scores
