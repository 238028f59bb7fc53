"""Keeping the largest component: chosen on held-out training cases, applied to what is predicted.

The rule is nnU-Net's: first all foreground as one mask, then each label or region by itself, and each only where the
mean Dice rises and no label loses. Components touch by faces, edges or corners; of several that are equally large all
stay, so that the result does not depend on the order of the axes.

Shapes: label volumes of any three axes, uint8.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component
from scipy.ndimage import find_objects

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.postprocessing import PostProcessing, Step
from samora_pipeline.evaluation.metrics import joint_histogram

FOREGROUND = "foreground"

Labels = npt.NDArray[np.uint8]


def keep_largest(labels: Labels, values: Sequence[int]) -> Labels:
    """Return a copy in which voxels with one of ``values`` outside their largest component are background."""
    chosen = np.zeros(256, dtype=np.bool_)
    chosen[list(values)] = True
    mask = chosen[labels]
    result = labels.copy()
    for box in find_objects(mask.view(np.uint8), max_label=1):
        if box is not None:
            inside = mask[box]
            result[box][inside & ~remove_all_but_largest_component(inside)] = 0
    return result


def apply_steps(labels: Labels, steps: Iterable[Step]) -> Labels:
    """Apply steps in their order."""
    for step in steps:
        labels = keep_largest(labels, step.values)
    return labels


def choose(cases: Sequence[tuple[str, Labels, Labels]], scheme: LabelScheme) -> PostProcessing:
    """Try each step on cases (name, reference, prediction) that the network was not trained on.

    Without cases nothing is tried and nothing is kept.
    """
    names = tuple(name for name, _, _ in cases)
    if not cases:
        return PostProcessing(names, ())
    references = [reference for _, reference, _ in cases]
    current = [prediction for _, _, prediction in cases]
    before = _mean_dice(references, current, scheme)
    steps = []
    for name, values in _trials(scheme):
        changed = [keep_largest(prediction, values) for prediction in current]
        after = _mean_dice(references, changed, scheme)
        kept = _better(before, after)
        steps.append(Step(name, values, kept, before, after))
        if kept:
            current, before = changed, after
    return PostProcessing(names, tuple(steps))


def _trials(scheme: LabelScheme) -> list[tuple[str, tuple[int, ...]]]:
    everything = tuple(sorted({value for _, values in scheme.foreground for value in values}))
    own = [(name, values) for name, values in scheme.foreground if values != everything]
    return [(FOREGROUND, everything), *own]


def _better(before: dict[str, float], after: dict[str, float]) -> bool:
    """Whether the mean over the labels rises and none falls."""
    return sum(after.values()) > sum(before.values()) and all(after[name] >= before[name] for name in before)


def _mean_dice(references: Sequence[Labels], predictions: Sequence[Labels], scheme: LabelScheme) -> dict[str, float]:
    """Mean Dice per label over the cases that show it (protocol ``physical``: absent labels are not scored)."""
    scores: dict[str, list[float]] = {}
    for reference, prediction in zip(references, predictions, strict=True):
        counted = np.ones(reference.shape, np.bool_) if scheme.ignore is None else reference != scheme.ignore
        counts = joint_histogram(reference[counted], prediction[counted])
        for name, values in scheme.foreground:
            own = [value for value in values if value < len(counts)]
            shown, guessed = int(counts[own].sum()), int(counts[:, own].sum())
            if shown:
                common = int(counts[np.ix_(own, own)].sum())
                scores.setdefault(name, []).append(2 * common / (shown + guessed))
    return {name: sum(values) / len(values) for name, values in scores.items()}
