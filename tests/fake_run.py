"""A trained run without training: a tiny network with random weights, written as ``samora_train`` leaves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from samora_pipeline.contracts.checkpoints import save_checkpoint
from samora_pipeline.contracts.json_io import to_plain, write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import ModelSpec
from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans
from samora_pipeline.contracts.run import (
    BASE_FILE,
    CONFIG_FILE,
    FINAL_CHECKPOINT,
    BaseRecord,
    PoolRecord,
    RunConfig,
)
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.files import digest_file
from samora_pipeline.models.assembly import build_network, trained_state
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.weights.sam_checkpoint import base_state

DATASET = "Dataset090_Phantom"
RUN = "SAMoraTrainer__10pct__default"
INPUT_SIZE = 64
LABELS = LabelScheme({"liver": (1,), "spleen": (2,)})
REGIONS = LabelScheme({"whole": (1, 2), "core": (2,)}, ignore=3, region_order=(1, 2))


def make_plans(**changes: Any) -> Plans:
    """Plans of a one-channel CT dataset; ``changes`` are plain values, put in with a reason."""
    plans = Plans(
        dataset=DATASET,
        channel_names=("CT",),
        slice_axis=Planned("axial", "tests"),
        in_plane=Planned("resize", "tests"),
        in_plane_spacing=Planned(None, "tests"),
        slice_size=Planned(None, "tests"),
        input_size=Planned(None, "tests"),
        channels=Planned("repeat", "tests"),
        intensity=Planned((IntensityRule("window", -125.0, 275.0),), "tests"),
        mirror=Planned(True, "tests"),
        fingerprint_digest="0" * 64,
    )
    plain = ("dataset", "channel_names")
    return replace(
        plans, **{name: value if name in plain else Planned(value, "tests") for name, value in changes.items()}
    )


def write_fake_run(
    results: Path,
    *,
    dataset: str = DATASET,
    run: str = RUN,
    folds: tuple[str, ...] = ("0",),
    plans: Plans | None = None,
    labels: LabelScheme = LABELS,
    stamps: tuple[str, ...] = ("PHANTOM",),
    spec: ModelSpec | None = None,
    effect: float = 0.0,
) -> Path:
    """Write finished folds, each with other random weights on one base that lies beside them; return the run folder.

    ``effect``: standard deviation of what is added to experts and fusions, which do nothing when they are new.
    """
    plans = plans or make_plans(dataset=dataset)
    folder = results / dataset / run
    folder.mkdir(parents=True)
    if spec is None:
        channels = len(plans.channel_names)
        spec = ModelSpec("samora_tiny", INPUT_SIZE, labels.num_outputs, in_channels=channels, lora_rank=4)
    for number, fold in enumerate(folds):
        torch.manual_seed(number)
        network = build_network(spec)
        with torch.no_grad():
            for block in expert_blocks(network.image_encoder).values():
                for parameter in nn.ModuleList(part for part in (block.experts, block.fusion) if part).parameters():
                    parameter.add_(torch.randn_like(parameter) * effect)
        if number == 0:
            save_file(base_state(network), folder / BASE_FILE)
        config = RunConfig(
            dataset=dataset,
            trainer="SAMoraTrainer",
            split="10pct",
            fold=fold,
            name="default",
            recipe="none",
            seed=number,
            model=spec,
            base=BaseRecord("bootstrap", digest_file(folder / BASE_FILE), "bootstrap"),
            plans=plans,
            labels=labels,
            file_ending=".nii.gz",
            selection=Selection("10pct", fold, "cases", 0, False, ("case_a",)),
            scored=("case_b",),
            pool=PoolRecord({dataset: ("case_a",)}, ("case_b",)),
            stamps=stamps,
        )
        own = folder / f"fold_{fold}"
        write_json(config, own / CONFIG_FILE)
        record = {"model": to_plain(spec), "base_digest": config.base.digest, "trainer": config.trainer}
        save_checkpoint(own / FINAL_CHECKPOINT, trained_state(network), record)
    return folder


def write_image(
    path: Path,
    array: npt.NDArray[Any] | None = None,
    affine: npt.NDArray[np.float64] | None = None,
    seed: int = 0,
) -> Path:
    """Write a small image in Hounsfield units; by default noise of 20 x 24 x 6 voxels."""
    if array is None:
        array = np.random.default_rng(seed).integers(-200, 400, (20, 24, 6)).astype(np.int16)
    image = nibabel.Nifti1Image(array, np.diag([-1.5, -1.5, 3.0, 1.0]) if affine is None else affine)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(image, path)
    return path
