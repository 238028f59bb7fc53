"""Scored cases as slices, and which of them are looked at: the worst, the median and the best case.

Shapes: S slices; C channels; H, W rows and columns of the source grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import numpy.typing as npt

from samora_pipeline.contracts.dataset import RawCase
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.plans import IntensityRule, Plans
from samora_pipeline.contracts.scores import CaseMetrics, Summary
from samora_pipeline.imaging.files import read_volume
from samora_pipeline.imaging.intensity import measure, normalize
from samora_pipeline.imaging.volume import labels_to_slices, on_grid_of, to_slices

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
_BLOCK = 64
"""slices that are compared at a time"""


class NormalizedSlices:
    """Slices [S,C,H,W] as floats in [0,1], made when they are asked for: a whole scan of them is four times its file.

    ``slices[3]`` is [C,H,W], ``slices[3, 0]`` [H,W], ``slices[[3, 4]]`` [2,C,H,W].
    """

    def __init__(self, slices: npt.NDArray[Any], rules: Sequence[IntensityRule]) -> None:
        self._slices, self._rules = slices, rules
        self._stats = [measure(slices[:, channel]) for channel in range(slices.shape[1])]

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, key: int | list[int] | tuple[int, int]) -> npt.NDArray[np.float32]:
        chosen, *channel = key if isinstance(key, tuple) else (key,)
        images = normalize(self._slices[chosen], self._rules, self._stats)
        return images[channel[0]] if channel else images


@dataclass(frozen=True)
class CaseStack:
    """``images`` [S,C,H,W] in [0,1] as the plan says; ``reference`` and each of ``predictions`` [S,H,W] label values.

    ``spacing`` in mm between slices, rows and columns.
    """

    name: str
    images: npt.NDArray[np.float32] | NormalizedSlices
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
        stacks.append(labels_to_slices(on_grid_of(volumes[0], volume), geometry))
    images = NormalizedSlices(slices, plans.intensity.value)
    return CaseStack(case.name, images, stacks[0], tuple(stacks[1:]), geometry.spacing)


@dataclass(frozen=True)
class SelectedCase:
    """A case and why it was chosen: its rank among the cases by mean Dice."""

    role: str
    case: CaseMetrics
    dice: float


@dataclass(frozen=True)
class ShownCase:
    """A case to be drawn: why it was chosen, its Dice per run and organ, and what its slices hold.

    ``organs`` maps an organ to one Dice of the whole volume per run. ``names`` are short ones of the runs (A, B),
    empty where there is one. The last run is the one the case was chosen by.
    """

    role: str
    title: str
    stack: CaseStack
    organs: dict[str, list[float | None]]
    names: tuple[str, ...] = ()

    def first_slice(self, labels: LabelScheme) -> int:
        """The slice to begin with: of the worst case the one with most errors, else the largest foreground."""
        stack = self.stack
        return representative_slice(stack.reference, stack.predictions[-1], labels, by_error=self.role == "worst")


def choose_cases(summary: Summary) -> list[SelectedCase]:
    """The worst, the median (the lower of two) and the best case by mean Dice; fewer where there are fewer cases.

    Cases without any organ in the reference have no Dice and are never chosen.
    """
    scored = [(case_mean(case), case) for case in summary.metric_per_case]
    ranked = sorted(((dice, case) for dice, case in scored if dice is not None), key=lambda pair: pair[0])
    if not ranked:
        return []
    if len(ranked) == 1:
        return [SelectedCase("only case", ranked[0][1], ranked[0][0])]
    picks = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
    if len(ranked) == 2:
        del picks["median"]
    return [SelectedCase(role, ranked[index][1], ranked[index][0]) for role, index in picks.items()]


def case_mean(case: CaseMetrics, metric: str = "Dice") -> float | None:
    """The mean of a metric over the organs in which it is defined (Dice: those in the reference), or None."""
    values = [value for organ in case.metrics.values() if (value := organ.value(metric)) is not None]
    return fmean(values) if values else None


def shown_case(
    chosen: SelectedCase, stack: CaseStack, summaries: Sequence[Summary], names: tuple[str, ...] = ()
) -> ShownCase:
    """A chosen case with its slices and its scores in one summary per run, the last of which it was chosen by."""
    organs: dict[str, list[float | None]] = {}
    for summary in summaries:
        row = next(row for row in summary.metric_per_case if row.case == stack.name)
        for key, organ in summary.labels.items():
            organs.setdefault(organ, []).append(row.metrics[key].Dice)
    of_the_last = f" of {names[-1]}" if names else ""
    title = f"{chosen.role.capitalize()}{of_the_last}: {stack.name}, mean Dice {chosen.dice:.3f}"
    return ShownCase(chosen.role, title, stack, organs, names)


def representative_slice(reference: Labels, prediction: Labels, labels: LabelScheme, *, by_error: bool) -> int:
    """The slice [S,H,W] with the most wrong pixels, or the one with the largest foreground of the reference.

    Where that leaves no choice (no error, no foreground) it is the slice with the most predicted foreground.
    """
    blocks = range(0, len(reference), _BLOCK)
    parts = [_pixels(reference[at : at + _BLOCK], prediction[at : at + _BLOCK], labels) for at in blocks]
    wrong, foreground, predicted = np.concatenate(parts, axis=1)
    candidates = (wrong, foreground) if by_error else (foreground, wrong)
    for counts in (*candidates, predicted):
        if counts.any():
            return int(counts.argmax())
    return len(reference) // 2


def _pixels(reference: Labels, prediction: Labels, labels: LabelScheme) -> npt.NDArray[np.int64]:
    """Pixels per slice of some slices [S,H,W], as [3,S]: wrong ones, foreground of the reference, predicted ones."""
    wrong = np.logical_or.reduce(list(errors(reference, prediction, labels).values()))
    masks = (wrong, is_foreground(reference, labels), prediction > 0)
    return np.array([mask.sum(axis=(-2, -1)) for mask in masks])


def errors(reference: Labels, prediction: Labels, labels: LabelScheme) -> dict[str, Mask]:
    """Three masks of the shape of the labels: missed foreground, false foreground, one organ taken for another.

    Ignored voxels are right whatever was predicted.
    """
    counted = scored_pixels(reference, labels)
    truth, guess = is_foreground(reference, labels), is_foreground(prediction, labels)
    confused = np.zeros(reference.shape, dtype=np.bool_)
    for _, own in labels.foreground:
        confused |= np.isin(reference, own) != np.isin(prediction, own)
    return {
        "missed": truth & ~guess & counted,
        "false": guess & ~truth & counted,
        "confused": confused & truth & guess & counted,
    }


def scored_pixels(reference: Labels, labels: LabelScheme) -> Mask:
    """All pixels but the ignored ones."""
    return np.not_equal(reference, -1 if labels.ignore is None else labels.ignore)


def foreground_slices(stack: CaseStack, labels: LabelScheme) -> list[int]:
    """The slices with foreground in the reference or in a prediction, in order."""
    stacks = (stack.reference, *stack.predictions)
    return [i for i in range(len(stack.reference)) if any(is_foreground(one[i], labels).any() for one in stacks)]


def seen_along(labels: LabelScheme, *stacks: Labels) -> Mask:
    """Where [H,W] one of the slices of one of the stacks [S,H,W] has foreground."""
    seen: Mask = np.zeros(stacks[0].shape[1:], dtype=np.bool_)
    for stack in stacks:
        for one in stack:
            seen |= is_foreground(one, labels)
    return seen


def is_foreground(values: Labels, labels: LabelScheme) -> Mask:
    """Where label values stand for an organ or a part of a region."""
    return np.isin(values, [value for _, own in labels.foreground for value in own])


def evenly(indices: Sequence[int], count: int, kept: int | None = None) -> list[int]:
    """At most ``count`` of ``indices``, evenly over them and with ``kept`` among them, in order."""
    chosen = list(indices)
    if len(chosen) > count:
        chosen = [chosen[place] for place in np.linspace(0, len(chosen) - 1, count).round().astype(int)]
        if kept is not None:
            chosen[min(range(count), key=lambda place: abs(chosen[place] - kept))] = kept
    return sorted({*chosen, *(() if kept is None else (kept,))})


def slice_dice(reference: Labels, prediction: Labels, labels: LabelScheme) -> dict[str, float | None]:
    """Dice per organ over the given pixels; None where the organ is in neither, ignored pixels left out."""
    counted = scored_pixels(reference, labels)
    scores: dict[str, float | None] = {}
    for name, values in labels.foreground:
        truth, guess = np.isin(reference, values) & counted, np.isin(prediction, values) & counted
        total = int(truth.sum()) + int(guess.sum())
        scores[name] = 2 * int((truth & guess).sum()) / total if total else None
    return scores
