"""A trained run without training: configuration, random weights, scores and timing as ``samora_train`` leaves them.

``write_fake_run`` writes networks, ``write_scored_run`` scores without a network, ``write_reported_run`` both, with the
scans, references and predictions behind the scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch import nn

from samora_pipeline.contracts.checkpoints import load_checkpoint, save_checkpoint
from samora_pipeline.contracts.json_io import read_json, to_plain, write_json
from samora_pipeline.contracts.labels import LabelScheme
from samora_pipeline.contracts.model_spec import ModelSpec, NetworkSpec
from samora_pipeline.contracts.plans import IntensityRule, Planned, Plans
from samora_pipeline.contracts.run import (
    BASE_FILE,
    CONFIG_FILE,
    FINAL_CHECKPOINT,
    SUMMARY_FILE,
    VALIDATION_FOLDER,
    BaseRecord,
    PoolRecord,
    RunConfig,
)
from samora_pipeline.contracts.run_reader import read_run_config
from samora_pipeline.contracts.scores import CaseMetrics, OrganMetrics, SamFamilyCase, SamFamilyMetrics
from samora_pipeline.contracts.splits import Selection
from samora_pipeline.contracts.stored_case import StoredCase
from samora_pipeline.contracts.timing import TIMING_FILE, StageTiming, Timing
from samora_pipeline.evaluation.scoring import CaseScores, Rules, score_files
from samora_pipeline.evaluation.summary import label_names, summarize
from samora_pipeline.evaluation.tables import write_summary
from samora_pipeline.files import digest_file
from samora_pipeline.imaging.files import read_volume, write_labels
from samora_pipeline.imaging.intensity import measure
from samora_pipeline.imaging.volume import labels_to_slices, to_slices
from samora_pipeline.models.assembly import build_network, trained_state
from samora_pipeline.models.expert_block import expert_blocks
from samora_pipeline.models.samora import Network, SegmentationNetwork
from samora_pipeline.reporting.report_run import Places
from samora_pipeline.slices.store import write_case
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
    values: dict[str, Any] = {
        name: value if name in plain else Planned(value, "tests") for name, value in changes.items()
    }
    return replace(plans, **values)


def make_config(
    labels: LabelScheme, plans: Plans, spec: NetworkSpec, scored: Sequence[str], **changes: Any
) -> RunConfig:
    """The configuration of a fold that learned from case_a or case_t; ``changes`` are any of its fields."""
    split, fold = changes.get("split", "10pct"), changes.get("fold", "0")
    config = RunConfig(
        dataset=plans.dataset,
        trainer="SAMoraTrainer",
        split=split,
        fold=fold,
        name="default",
        recipe="none",
        seed=0,
        model=spec,
        base=BaseRecord("sam_vit_b", "0" * 64, "public"),
        plans=plans,
        labels=labels,
        file_ending=".nii.gz",
        selection=Selection(split, fold, "cases", 0, False, ("case_a",)),
        scored=tuple(scored),
        pool=PoolRecord({plans.dataset: ("case_a",)}, tuple(scored)),
    )
    return replace(config, **changes)


def write_fake_run(
    results: Path,
    *,
    dataset: str = DATASET,
    run: str = RUN,
    folds: tuple[str, ...] = ("0",),
    plans: Plans | None = None,
    labels: LabelScheme = LABELS,
    warnings: tuple[str, ...] = ("PHANTOM",),
    spec: NetworkSpec | None = None,
    effect: float = 0.0,
    trained: Sequence[str] | None = None,
) -> Path:
    """Write finished folds, each with other random weights on one base that lies beside them; return the run folder.

    ``effect``: standard deviation of what is added to experts and fusions, which do nothing when they are new.
    ``trained`` are the parts that learned from labels, as the checkpoint notes them.
    """
    plans = plans or make_plans(dataset=dataset)
    folder = results / dataset / run
    folder.mkdir(parents=True)
    if spec is None:
        channels = len(plans.channel_names)
        spec = ModelSpec("samora_tiny", INPUT_SIZE, labels.num_outputs, in_channels=channels, lora_rank=4)
    for number, fold in enumerate(folds):
        torch.manual_seed(number)
        network: Network = build_network(spec)
        with torch.no_grad():
            for block in expert_blocks(network).values():
                for parameter in nn.ModuleList(part for part in (block.experts, block.fusion) if part).parameters():
                    parameter.add_(torch.randn_like(parameter) * effect)
        base = None
        if isinstance(network, SegmentationNetwork):
            if number == 0:
                save_file(base_state(network), folder / BASE_FILE)
            base = BaseRecord("bootstrap", digest_file(folder / BASE_FILE), "bootstrap")
        config = make_config(labels, plans, spec, ("case_b",), fold=fold, seed=number, base=base, warnings=warnings)
        own = folder / f"fold_{fold}"
        write_json(config, own / CONFIG_FILE)
        record: dict[str, Any] = {"model": to_plain(spec), "base_digest": config.base_digest, "trainer": config.trainer}
        record["config_digest"] = config.deciding_digest
        if trained is not None:
            record["trained"] = list(trained)
        save_checkpoint(own / FINAL_CHECKPOINT, trained_state(network), record)
    return folder


def sign(fold: Path) -> None:
    """Note in the checkpoint of a fold that it was trained with the config that lies beside it now."""
    config = read_run_config(fold / CONFIG_FILE, allow_code=True)
    checkpoint = load_checkpoint(fold / FINAL_CHECKPOINT)
    record = {**checkpoint.record, "config_digest": config.deciding_digest}
    save_checkpoint(fold / FINAL_CHECKPOINT, checkpoint.tensors, record)


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


SYNAPSE = LabelScheme(
    {
        name: (value,)
        for value, name in enumerate(
            ("spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas"), start=1
        )
    }
)
TWO = LabelScheme({"liver": (1,), "spleen": (2,)})

Dice = Mapping[str, Sequence[float | None]]
"""Per case the Dice of each label; None is an organ that the reference lacks, 0 one that was missed."""


def organ(dice: float | None, n_ref: int = 1000) -> OrganMetrics:
    if dice is None:
        return OrganMetrics(None, None, 0, 0, 0, 9, 0, 0, None, None, None, None)
    found = dice > 0
    tp = round(dice * n_ref)
    distance = 50 * (1 - dice) if found else None
    return OrganMetrics(
        Dice=dice,
        IoU=dice / (2 - dice),
        TP=tp,
        FP=n_ref - tp if found else 0,
        FN=n_ref - tp,
        TN=9,
        n_pred=n_ref if found else 0,
        n_ref=n_ref,
        HD95=distance,
        HD=distance,
        ASSD=distance and distance / 4,
        NSD=dice,
        HD95_penalised=distance if found else 300.0,
    )


def case_scores(dice: Dice, labels: LabelScheme, patients: Mapping[str, str], fold: str) -> list[CaseScores]:
    keys = list(label_names(labels))
    scores = []
    for case, values in dice.items():
        pairs = list(zip(keys, values, strict=True))
        organs = {key: organ(value) for key, value in pairs}
        family = {key: SamFamilyMetrics(value or 0.0, 100 * (1 - value) if value else 0.0) for key, value in pairs}
        file = f"{case}.nii.gz"
        row = CaseMetrics(case, file, file, organs, patients.get(case, case), fold)
        scores.append(CaseScores(row, SamFamilyCase(case, family)))
    return scores


def write_scored_run(
    results: Path,
    dice: Dice,
    *,
    dataset: str = "Dataset001_Synapse",
    trainer: str = "SAMoraTrainer",
    split: str = "10pct",
    name: str = "default",
    fold: str = "official",
    labels: LabelScheme = TWO,
    patients: Mapping[str, str] | None = None,
    model: ModelSpec | None = None,
    timing: Timing | None = None,
    warnings: tuple[str, ...] = (),
    tolerance: float = 2.0,
    **changes: Any,
) -> Path:
    """Write one scored fold and return the run folder; ``changes`` are fields of its config."""
    run = results / dataset / f"{trainer}__{split}__{name}"
    folder = run / f"fold_{fold}"
    given = {"split": split, "fold": fold, "trainer": trainer, "name": name, "recipe": "full", "warnings": warnings}
    spec = replace(model or ModelSpec("samora_tiny", 128, 1, lora_rank=4), num_outputs=labels.num_outputs)
    config = make_config(labels, make_plans(dataset=dataset), spec, tuple(dice), **{**given, **changes})
    write_json(config, folder / CONFIG_FILE)
    scores = case_scores(dice, labels, patients or {}, fold)
    write_json(summarize(scores, label_names(labels), tolerance=tolerance, warnings=warnings), folder / SUMMARY_FILE)
    if timing is not None:
        write_json(timing, folder / TIMING_FILE)
    return run


def random_dice(seed: int, cases: int = 12, organs: int = 2, shift: float = 0.0) -> dict[str, list[float]]:
    """Dice of ``cases`` cases, each with its own difficulty; ``shift`` is added to all of them."""
    difficulty = np.random.default_rng(99).uniform(0.6, 0.85, (cases, 1))
    noise = np.random.default_rng(seed).normal(shift, 0.02, (cases, organs))
    return {f"case_{row:02d}": [float(value) for value in values] for row, values in enumerate(difficulty + noise)}


SHAPE = (28, 24, 5)
# Voxels by which a case's prediction is shifted: the larger, the worse.
SHIFTS = {"near": 1, "far": 6, "middle": 3, "exact": 0}


def write_reported_run(
    root: Path,
    *,
    run: str = RUN,
    shifts: Mapping[str, int] = SHIFTS,
    labels: LabelScheme = LABELS,
    warnings: tuple[str, ...] = ("PHANTOM",),
    patients: Mapping[str, str] | None = None,
    trained: Sequence[str] | None = ("fusion", "decoder", "prompt"),
    spec: NetworkSpec | None = None,
    whole_cases: bool = False,
) -> Path:
    """Write raw scans, a store, and a run whose predictions are the references shifted; return the run's folder.

    The first case counts as labelled: two slices of it, or with ``whole_cases`` all.
    """
    plans = make_plans()
    folder = write_fake_run(
        root / "results", run=run, plans=plans, labels=labels, warnings=warnings, spec=spec, trained=trained
    )
    fold = folder / "fold_0"
    pairs = [_write_case(root, fold, name, shift, labels) for name, shift in shifts.items()]
    config = read_json(RunConfig, fold / CONFIG_FILE)
    names = tuple(shifts)
    selection = replace(config.selection, cases=names[:1], slices={} if whole_cases else {names[0]: (2, 3)})
    write_json(replace(config, selection=selection, scored=names), fold / CONFIG_FILE)
    scores = score_files(pairs, Rules(labels, 2.0, True), patients or {}, fold="0")
    write_summary(summarize(scores, label_names(labels), warnings=warnings), fold / SUMMARY_FILE)
    lines = [{"stage": "finetune", "epoch": epoch, "loss": 1 / epoch, "lr": 0.01, "seconds": 2.0} for epoch in (1, 2)]
    (fold / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(Timing(device="cpu", stages={"finetune": StageTiming(4.0, 1.5, 2)}), fold / TIMING_FILE)
    return folder


def places(root: Path) -> Places:
    """Where ``write_reported_run`` writes."""
    dataset = root / "results" / DATASET
    return Places(root / "raw" / DATASET, root / "preprocessed" / DATASET, dataset / "pretraining", root / "weights")


def _write_case(root: Path, fold: Path, name: str, shift: int, labels: LabelScheme) -> tuple[Path, Path]:
    raw, store = root / "raw" / DATASET, root / "preprocessed" / DATASET / "slices"
    reference = _reference(labels)
    image = (np.random.default_rng(len(name)).normal(0, 20, SHAPE) + 60.0 * reference).astype(np.int16)
    scan = read_volume(write_image(raw / "imagesTs" / f"{name}_0000.nii.gz", image))
    paths = raw / "labelsTs" / f"{name}.nii.gz", fold / VALIDATION_FOLDER / f"{name}.nii.gz"
    predicted = np.where(reference == (labels.ignore or 255), 0, reference).astype(np.uint8)
    for path, array in zip(paths, (reference, np.roll(predicted, shift, axis=0)), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_labels(path, array, scan)
    names = {**{own: list(values) if len(values) > 1 else values[0] for own, values in labels.foreground}}
    declared = {"background": 0, **names, **({"ignore": labels.ignore} if labels.ignore else {})}
    order = {"regions_class_order": list(labels.region_order)} if labels.regions else {}
    description = {"channel_names": {"0": "CT"}, "labels": declared, "numTraining": 0, "file_ending": ".nii.gz"}
    (raw / "dataset.json").write_text(json.dumps({**description, **order}))
    slices, geometry = to_slices((scan,), "axial")
    stack = labels_to_slices(read_volume(paths[0]), geometry)
    pixels = {own: tuple(np.isin(stack, values).sum(axis=(1, 2)).tolist()) for own, values in labels.foreground}
    record = StoredCase(name, "test", (0, 0, 0), "", geometry, (measure(slices),), (), None, "digest", pixels)
    write_case(store, record, slices, stack)
    return paths


def _reference(labels: LabelScheme) -> npt.NDArray[np.uint8]:
    """A box of every label value, side by side along the second axis, in all slices but the first."""
    array = np.zeros(SHAPE, dtype=np.uint8)
    values = sorted(labels.values - {0})
    width = (SHAPE[1] - 4) // len(values)
    for place, value in enumerate(values):
        array[8:16, 2 + place * width : 2 + (place + 1) * width, 1:] = value
    return array
