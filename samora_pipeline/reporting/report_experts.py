"""The experts apart and left out one at a time (SAMora, Fig. 6), switched at inference on a few slices of one case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from statistics import fmean

import numpy as np
import numpy.typing as npt
import PIL.Image

from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.level import Level
from samora_pipeline.models.expert_block import only_expert
from samora_pipeline.reporting.html_blocks import Cell, Figure, Section, Table, number
from samora_pipeline.reporting.html_images import webp_image
from samora_pipeline.reporting.pictures import Mask, errors, foreground_values, telling_slice
from samora_pipeline.reporting.report_cases import CaseStack, Labels, foreground_slices, slice_dice, spread
from samora_pipeline.reporting.report_network import AskedNetwork, without_expert
from samora_pipeline.reporting.slider_pictures import (
    ERROR_COLOURS,
    Frame,
    error_legend,
    organ_legend,
    rgb,
    tinted,
    wide_frame,
    write_title,
)

_SLICES = 6
_SIDE, _LEAST_WIDTH = 200, 170
_HEAD = 18
_COLUMNS = 4

ALL = "all experts"
BASE = "no expert"
_ALONE = " alone"


def experts_section(asked: AskedNetwork, stack: CaseStack, stamps: tuple[str, ...]) -> Section:
    """Predictions of every variant on some slices of a case: a picture of one slice, and Dice over all of them."""
    labels = asked.config.labels
    telling = telling_slice(stack.reference, stack.predictions[0], labels, by_error=False)
    indices = spread(foreground_slices(stack, labels) or [telling], _SLICES, telling)
    predicted = {}
    for name, switched in _variants(asked):
        with switched:
            predicted[name] = asked.predict(stack, indices)
    reference = stack.reference[indices]
    shown = indices.index(telling)
    where = f"{stack.name}, slices {', '.join(str(index + 1) for index in indices)}"
    return Section(
        "experts",
        "Experts",
        "What each expert contributes: all together, each alone, and each left out (Fig. 6 of the paper).",
        "The fused prediction should be better than any expert alone, and leaving one out should cost something "
        "somewhere. An expert that changes nothing when it is left out has learned nothing that the others lack. The "
        "experts are switched at inference: fusion and decoder never saw this in training, so the differences show "
        "what they rely on, not how good a network trained with fewer experts would be (that is Table 5).",
        (
            _figure(stack, telling, {name: stacked[shown] for name, stacked in predicted.items()}, labels, stamps),
            _dice_table(reference, predicted, labels, where),
            _agreement_table(reference, predicted, labels, where),
        ),
    )


def _variants(asked: AskedNetwork) -> Iterator[tuple[str, AbstractContextManager[None]]]:
    network, levels = asked.network, asked.config.model.levels
    yield ALL, nullcontext()
    for level in levels:
        yield _alone(level), only_expert(network, level)
    for level in levels:
        yield f"without {level.value}", without_expert(network, level)
    yield BASE, only_expert(network, None)


def _alone(level: Level) -> str:
    return f"{level.value}{_ALONE}"


def _figure(
    stack: CaseStack, index: int, predicted: dict[str, Labels], labels: LabelScheme, stamps: tuple[str, ...]
) -> Figure:
    held: Mask = np.any(np.isin(stack.reference, foreground_values(labels)), axis=0)
    frame = wide_frame(held, stack.aspect, _SIDE, _LEAST_WIDTH)
    scan = frame.scan(stack.images[index, 0]).convert("RGB")
    reference = stack.reference[index]
    tiles = [("scan", scan), ("reference", tinted(scan, frame.labels(reference), labels))]
    for name, labelled in predicted.items():
        tiles.append((name, tinted(scan, frame.labels(labelled), labels)))
        tiles.append((f"{name}: errors", _errors(scan, frame, reference, labelled, labels)))
    return Figure(
        "experts-figure",
        webp_image(_sheet(tiles), stamps, quality=60),
        f"{stack.name}, slice {index + 1}, segmented with all experts, each alone, each left out, and none",
        f"Case {stack.name} (the median by mean Dice), slice {index + 1}, before post-processing. alone: the expert's "
        "own output and no fusion. without: its LoRA adds nothing, the fusion still runs. no expert: the plain base.",
        (organ_legend(labels), error_legend()),
    )


def _errors(
    scan: PIL.Image.Image, frame: Frame, reference: Labels, labelled: Labels, labels: LabelScheme
) -> PIL.Image.Image:
    pixels = np.asarray(scan).copy() // 2
    for name, mask in errors(frame.labels(reference), frame.labels(labelled), labels).items():
        pixels[mask] = rgb(ERROR_COLOURS[name][0])
    return PIL.Image.fromarray(pixels)


def _sheet(tiles: list[tuple[str, PIL.Image.Image]]) -> npt.NDArray[np.uint8]:
    width, height = tiles[0][1].size
    rows = -(-len(tiles) // _COLUMNS)
    sheet = PIL.Image.new("RGB", (_COLUMNS * (width + 4), rows * (height + _HEAD)), "white")
    for place, (name, tile) in enumerate(tiles):
        left, top = place % _COLUMNS * (width + 4), place // _COLUMNS * (height + _HEAD)
        write_title(sheet, (left + 3, top + 1), name, width - 6)
        sheet.paste(tile, (left, top + _HEAD))
    return np.asarray(sheet)


def _dice_table(reference: Labels, predicted: dict[str, Labels], labels: LabelScheme, where: str) -> Table:
    rows = []
    for name, stacked in predicted.items():
        scores = slice_dice(reference, stacked, labels)
        defined = [score for score in scores.values() if score is not None]
        mean = fmean(defined) if defined else None
        rows.append((Cell(name, name), number(mean, 3), *(number(score, 3) for score in scores.values())))
    organs = tuple(name.replace("_", " ") for name, _ in labels.foreground)
    notes = ("Over these slices of one case only: it shows what the experts do and ranks nothing.",)
    return Table("experts-dice", f"Dice in {where}", ("variant", "mean", *organs), tuple(rows), notes=notes)


def _agreement_table(reference: Labels, predicted: dict[str, Labels], labels: LabelScheme, where: str) -> Table:
    """Shares of the pixels that are foreground anywhere: right by one expert alone, by some, by all, by none."""
    alone = {name: stacked for name, stacked in predicted.items() if name.endswith(_ALONE)}
    counted = reference != labels.ignore if labels.ignore is not None else np.ones(reference.shape, dtype=np.bool_)
    foreground = np.isin(reference, foreground_values(labels))
    for stacked in alone.values():
        foreground |= stacked > 0
    foreground &= counted
    right = {name: (stacked == reference) & foreground for name, stacked in alone.items()}
    times = np.sum([mask.astype(np.uint8) for mask in right.values()], axis=0)
    total = max(1, int(foreground.sum()))
    rows = [
        (Cell(f"only {name.removesuffix(_ALONE)}", name), number(100 * int((mask & (times == 1)).sum()) / total, 1))
        for name, mask in right.items()
    ]
    groups = {"some, not all": (times > 1) & (times < len(alone)), "all of them": times == len(alone)}
    for name, mask in {**groups, "none of them": times == 0}.items():
        rows.append((Cell(name, name), number(100 * int((foreground & mask).sum()) / total, 1)))
    caption = f"Which expert is right on its own, in {where}"
    notes = ("% of the pixels that are foreground to the reference or to one of the experts.",)
    return Table("experts-agreement", caption, ("right", "%"), tuple(rows), notes=notes)
