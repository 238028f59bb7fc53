"""The experts apart and left out one at a time (SAMora, Fig. 6), switched at inference on a few slices of one case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean

import numpy as np

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.models.expert_block import only_expert
from samora_pipeline.reporting import painting, pictures
from samora_pipeline.reporting.html_blocks import Figure, Section, Table, Value
from samora_pipeline.reporting.html_images import webp_image
from samora_pipeline.reporting.pictures import CaseStack, Labels
from samora_pipeline.reporting.report_network import NetworkProbe, without_expert

_SLICES = 6
_SIDE, _LEAST_WIDTH = 200, 170
_COLUMNS = 4

ALL = "all experts"
BASE = "no expert"
_ALONE = " alone"


def experts_section(probe: NetworkProbe, stack: CaseStack, stamps: tuple[str, ...]) -> Section:
    """Predictions of every variant on some slices of a case: a picture of one slice, and Dice over all of them."""
    labels = probe.config.labels
    shown = pictures.representative_slice(stack.reference, stack.predictions[0], labels, by_error=False)
    indices = pictures.evenly(pictures.foreground_slices(stack, labels) or [shown], _SLICES, shown)
    predicted = {}
    for name, switched in _variants(probe):
        with switched:
            predicted[name] = probe.predict(stack, indices)
    reference = stack.reference[indices]
    where = f"{stack.name}, slices {', '.join(str(index + 1) for index in indices)}"
    blocks = (
        _figure(stack, shown, {name: own[indices.index(shown)] for name, own in predicted.items()}, labels, stamps),
        _dice_table(reference, predicted, labels, where),
        _agreement_table(reference, predicted, labels, where),
    )
    return Section("experts", blocks)


def _variants(probe: NetworkProbe) -> Iterator[tuple[str, AbstractContextManager[None]]]:
    network, levels = probe.network, probe.config.model.levels
    yield ALL, nullcontext()
    for level in levels:
        yield f"{level.value}{_ALONE}", only_expert(network, level)
    for level in levels:
        yield f"without {level.value}", without_expert(network, level)
    yield BASE, only_expert(network, None)


def _figure(
    stack: CaseStack,
    index: int,
    predicted: dict[str, Labels],
    labels: LabelScheme,
    stamps: tuple[str, ...],
) -> Figure:
    frame = painting.frame_around(pictures.seen_along(labels, stack.reference), stack.aspect, _SIDE, _LEAST_WIDTH)
    scan, reference = frame.scan(stack.images[index, 0]), stack.reference[index]
    dimmed = scan.point(lambda value: value // 2)
    tiles = [("scan", scan), ("reference", painting.organs_layer(frame, reference, labels).on(scan))]
    for name, labelled in predicted.items():
        tiles.append((name, painting.organs_layer(frame, labelled, labels).on(scan)))
        tiles.append((f"{name}: errors", painting.errors_layer(frame, reference, labelled, labels).on(dimmed)))
    return Figure(
        "experts-figure",
        webp_image(painting.sheet(tiles, _COLUMNS), stamps, quality=60),
        f"{stack.name}, slice {index + 1}, segmented with all experts, each alone, each left out, and none",
        f"Case {stack.name} (the median by mean Dice), slice {index + 1}, before post-processing. alone: the expert's "
        "own output and no fusion. without: its LoRA adds nothing, the fusion still runs. no expert: the plain base.",
        (painting.organ_legend(labels), painting.error_legend()),
    )


def _dice_table(reference: Labels, predicted: dict[str, Labels], labels: LabelScheme, where: str) -> Table:
    rows = []
    for name, stacked in predicted.items():
        scores = pictures.slice_dice(reference, stacked, labels)
        defined = [score for score in scores.values() if score is not None]
        rows.append((name, fmean(defined) if defined else None, *scores.values()))
    organs = tuple(name.replace("_", " ") for name, _ in labels.foreground)
    notes = ("Over these slices of one case only: it shows what the experts do and ranks nothing.",)
    return Table("experts-dice", f"Dice in {where}", ("variant", "mean", *organs), rows, notes=notes)


def _agreement_table(reference: Labels, predicted: dict[str, Labels], labels: LabelScheme, where: str) -> Table:
    """Shares of the pixels that are foreground anywhere: right by one expert alone, by some, by all, by none."""
    alone = {name: stacked for name, stacked in predicted.items() if name.endswith(_ALONE)}
    foreground = pictures.is_foreground(reference, labels)
    for stacked in alone.values():
        foreground |= stacked > 0
    foreground &= pictures.scored_pixels(reference, labels)
    right = {name: (stacked == reference) & foreground for name, stacked in alone.items()}
    times = np.sum([mask.astype(np.uint8) for mask in right.values()], axis=0)
    total = max(1, int(foreground.sum()))
    masks = {f"only {name.removesuffix(_ALONE)}": mask & (times == 1) for name, mask in right.items()}
    masks |= {"some, not all": (times > 1) & (times < len(alone)), "all of them": times == len(alone)}
    masks["none of them"] = times == 0
    rows: list[tuple[Value, ...]] = [
        (name, 100 * int((foreground & mask).sum()) / total) for name, mask in masks.items()
    ]
    caption = f"Which expert is right on its own, in {where}"
    notes = ("% of the pixels that are foreground to the reference or to one of the experts.",)
    return Table("experts-agreement", caption, ("right", "%"), rows, notes=notes, digits=1)
