"""The network of a scored fold on single slices: what it predicts there, and with which experts (SAMora, Fig. 6).

Shapes: B slices, C channels, H W rows and columns of the source grid, N input size, K output maps.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, RunConfig
from samora_pipeline.errors import ResourceError, UsageError
from samora_pipeline.imaging.resampling import InPlaneMap
from samora_pipeline.inference.loading import load_folds
from samora_pipeline.models.expert_block import expert_blocks, only_expert
from samora_pipeline.models.freezing import Part
from samora_pipeline.models.lora import LoRA
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.reporting import painting, pictures
from samora_pipeline.reporting.html_blocks import Figure, Section, Table, Value
from samora_pipeline.reporting.html_images import webp_image
from samora_pipeline.reporting.pictures import CaseStack, Labels
from samora_pipeline.reporting.report_record import PARTS_KEY
from samora_pipeline.reporting.report_run import ReportedRun

_SLICES = 6
_SIDE, _LEAST_WIDTH = 200, 170
_COLUMNS = 4

ALL = "all experts"
BASE = "no expert"
_ALONE = " alone"


@dataclass(frozen=True)
class NetworkProbe:
    """A fold's network on a device, in evaluation mode. ``trained``: the parts that learned from labels, if known."""

    network: SegmentationNetwork
    config: RunConfig
    device: torch.device
    trained: frozenset[Part] | None

    def inputs(self, stack: CaseStack, indices: Sequence[int]) -> Tensor:
        """The network's input (B,C,N,N) for slices of a case."""
        images = self.in_plane(stack).image(np.ascontiguousarray(stack.images[list(indices)]))
        return torch.from_numpy(images).to(self.device)

    def in_plane(self, stack: CaseStack) -> InPlaneMap:
        """The way between the slices of a case and the network's input."""
        rows, columns = stack.reference.shape[1:]
        size = self.config.model.input_size
        return InPlaneMap.for_plan(rows, columns, stack.spacing[1:], self.config.plans, size)

    def predict(self, stack: CaseStack, indices: Sequence[int]) -> Labels:
        """Label values [B,H,W] of slices of a case, one slice at a time."""
        maps = self.in_plane(stack)
        predicted = []
        with torch.inference_mode():
            for index in indices:
                logits = self.network(self.inputs(stack, (index,)))[0].float().cpu().numpy()
                predicted.append(self.config.labels.decode(maps.logits(logits, self.config.labels.regions)))
        return np.stack(predicted)

    def on_source_grid(self, stack: CaseStack, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Maps [K,n,n] over the network's input on the source grid [K,H,W], interpolated; 0 outside of it."""
        rows, columns = self.in_plane(stack).logit_operators(maps.shape[-1])
        return (rows @ maps @ columns.T).astype(np.float32)


def load_probe(run: ReportedRun, fold: str, device: torch.device) -> NetworkProbe:
    """Load the network that scored a fold.

    Raises:
        DataError: a file is missing or damaged. AssetError: ``E-WEIGHT-05`` the base encoder is not there.
        ResourceError: ``E-REPORT-05``. UsageError: ``E-REPORT-06`` the network is no SAM.
    """
    folder = run.folds[fold]
    (loaded,) = load_folds([folder], run.places.weights, allow_code=run.allow_code)
    network = loaded.network
    if not isinstance(network, SegmentationNetwork):
        raise UsageError("E-REPORT-06", found=loaded.config.model.backbone)
    with enough_memory():
        network.to(device).eval()
    return NetworkProbe(network, loaded.config, device, trained_parts(folder))


@contextmanager
def enough_memory() -> Iterator[None]:
    """Within the context a device that is full costs a part of the report, and not the report.

    Raises:
        ResourceError: ``E-REPORT-05``.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ResourceError("E-REPORT-05", found=str(error).splitlines()[0]) from error


def trained_parts(folder: Path) -> frozenset[Part] | None:
    """The parts of a fold's network that learned from labels; None where its checkpoint does not say.

    Raises:
        DataError: ``E-CKPT-..`` the checkpoint is missing or damaged.
    """
    parts = load_checkpoint(folder / FINAL_CHECKPOINT).record.get(PARTS_KEY)
    return None if parts is None else frozenset(Part(part) for part in parts)


@contextmanager
def without_expert(network: SegmentationNetwork, level: Level) -> Iterator[None]:
    """Within the context the LoRA of one level adds nothing: its branch equals the base, and the fusion still runs."""
    experts = [cast(LoRA, block.experts[level.value]) for block in expert_blocks(network).values()]
    weights = [weight for expert in experts for weight in (expert.q_b, expert.v_b)]
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight in weights:
                weight.zero_()
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


def experts_section(probe: NetworkProbe, stack: CaseStack, warnings: tuple[str, ...]) -> Section:
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
        _figure(stack, shown, {name: own[indices.index(shown)] for name, own in predicted.items()}, labels, warnings),
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
    stack: CaseStack, index: int, predicted: dict[str, Labels], labels: LabelScheme, warnings: tuple[str, ...]
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
        webp_image(painting.sheet(tiles, _COLUMNS), warnings, quality=60),
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
