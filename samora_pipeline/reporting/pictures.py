"""Which cases and which slices are worth looking at: the worst, the median and the best, each in its telling slice.

Shapes: S slices; H W rows and columns of the source grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import Plans
from samora_pipeline.contracts.scores import CaseMetrics, Summary
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.intensity import measure, normalize
from samora_pipeline.imaging.preprocessor import labels_to_slices, require_same_grid, to_slices

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Chosen:
    """A case and why it was chosen: its rank among the cases by mean Dice."""

    role: str
    case: CaseMetrics
    dice: float


@dataclass(frozen=True)
class CaseFiles:
    """Where a case lies: its channels, its reference and its prediction."""

    channels: tuple[Path, ...]
    reference: Path
    prediction: Path


@dataclass(frozen=True)
class Picture:
    """One slice of one case, ready to be drawn.

    ``image`` [H,W] in [0,1] as the network saw it (first channel), ``reference`` and ``prediction`` [H,W] label
    values. ``aspect`` is the height of a pixel over its width. ``organs`` gives Dice of the whole volume per organ.
    """

    title: str
    image: npt.NDArray[np.float32]
    reference: Labels
    prediction: Labels
    aspect: float
    organs: dict[str, float | None]


def choose_cases(summary: Summary) -> list[Chosen]:
    """The worst, the median (the lower of two) and the best case by mean Dice; fewer where there are fewer cases.

    Cases without any organ in the reference have no Dice and are never chosen.
    """
    scored = [(case_dice(case), case) for case in summary.metric_per_case]
    ranked = sorted(((dice, case) for dice, case in scored if dice is not None), key=lambda pair: pair[0])
    if not ranked:
        return []
    if len(ranked) == 1:
        return [Chosen("only case", ranked[0][1], ranked[0][0])]
    picks = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
    if len(ranked) == 2:
        del picks["median"]
    return [Chosen(role, ranked[index][1], ranked[index][0]) for role, index in picks.items()]


def case_dice(case: CaseMetrics) -> float | None:
    """The mean Dice over the organs that are in the reference, or None."""
    values = [organ.Dice for organ in case.metrics.values() if organ.Dice is not None]
    return fmean(values) if values else None


def make_pictures(
    summary: Summary, files: Callable[[str], CaseFiles], plans: Plans, labels: LabelScheme
) -> list[Picture]:
    """Read the chosen cases; ``files`` says where a case lies.

    Raises:
        DataError: a file is missing, damaged or on another grid.
    """
    return [_make_picture(chosen, files(chosen.case.case), summary, plans, labels) for chosen in choose_cases(summary)]


def _make_picture(chosen: Chosen, files: CaseFiles, summary: Summary, plans: Plans, labels: LabelScheme) -> Picture:
    volumes = tuple(read_volume(path) for path in files.channels)
    images, geometry = to_slices(volumes, plans.slice_axis.value)
    stacks = []
    for path in (files.reference, files.prediction):
        volume = read_volume(path)
        require_same_grid(volumes[0], volume)
        stacks.append(labels_to_slices(volume, geometry))
    reference, prediction = stacks
    index = telling_slice(reference, prediction, labels, by_error=chosen.role == "worst")
    shown = normalize(images[index, :1], plans.intensity.value[:1], [measure(images[:, 0])])
    title = f"{chosen.role.capitalize()}: {chosen.case.case}, mean Dice {chosen.dice:.3f}"
    return Picture(
        title=f"{title} ({plans.slice_axis.value} slice {index + 1} of {len(images)})",
        image=shown[0],
        reference=reference[index],
        prediction=prediction[index],
        aspect=geometry.spacing[1] / geometry.spacing[2],
        organs={name: chosen.case.metrics[key].Dice for key, name in summary.labels.items()},
    )


def telling_slice(reference: Labels, prediction: Labels, labels: LabelScheme, *, by_error: bool) -> int:
    """The slice [S,H,W] with the most wrong pixels, or the one with the largest foreground of the reference.

    Where that leaves no choice (no error, no foreground) it is the slice with the most predicted foreground.
    """
    wrong = np.logical_or.reduce(list(errors(reference, prediction, labels).values()))
    foreground = np.isin(reference, foreground_values(labels))
    candidates = (wrong, foreground) if by_error else (foreground, wrong)
    for mask in (*candidates, prediction > 0):
        counts = mask.sum(axis=(-2, -1))
        if counts.any():
            return int(counts.argmax())
    return len(reference) // 2


def errors(reference: Labels, prediction: Labels, labels: LabelScheme) -> dict[str, Mask]:
    """Three masks of the shape of the labels: missed foreground, false foreground, one organ taken for another.

    Ignored voxels are right whatever was predicted.
    """
    values = foreground_values(labels)
    counted = reference != labels.ignore if labels.ignore is not None else np.ones(reference.shape, dtype=np.bool_)
    truth, guess = np.isin(reference, values), np.isin(prediction, values)
    confused = np.zeros(reference.shape, dtype=np.bool_)
    for _, own in labels.foreground:
        confused |= np.isin(reference, own) != np.isin(prediction, own)
    return {
        "missed": truth & ~guess & counted,
        "false": guess & ~truth & counted,
        "confused": confused & truth & guess & counted,
    }


def foreground_values(labels: LabelScheme) -> list[int]:
    """All label values that stand for an organ or a part of a region."""
    return sorted({value for _, values in labels.foreground for value in values})
