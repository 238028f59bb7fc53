"""The network of a scored fold, asked about single slices: what it predicts there, and with which experts.

Shapes: B slices, C channels, H W rows and columns of the source grid, N input size, K output maps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from samora_pipeline.contracts.checkpoints import load_checkpoint
from samora_pipeline.contracts.model_spec import Level
from samora_pipeline.contracts.run import FINAL_CHECKPOINT, RunConfig
from samora_pipeline.errors import ResourceError, UsageError
from samora_pipeline.imaging.resampling import InPlaneMap
from samora_pipeline.inference.loading import load_folds
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.freezing import Part
from samora_pipeline.models.lora import LoRA
from samora_pipeline.models.samora import SegmentationNetwork
from samora_pipeline.reporting.pictures import CaseStack, Labels
from samora_pipeline.reporting.report_record import PARTS_KEY
from samora_pipeline.reporting.report_run import ReportedRun


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
        placed: npt.NDArray[np.float32] = (rows @ maps @ columns.T).astype(np.float32)
        return placed


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
